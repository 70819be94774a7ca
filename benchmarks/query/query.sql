-- random_cards --
-- The ids of $1 gift cards from all over the table.
SELECT id FROM projected.gift_cards ORDER BY random() LIMIT $1

-- vacuum --
-- What loading left behind is not to be paid for by what is measured.
VACUUM ANALYZE
