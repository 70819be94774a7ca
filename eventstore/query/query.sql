-- page --
-- One page of a list, in the order of the streams.
SELECT stream, position, {names} FROM {table}
WHERE stream > $1 {filters}
ORDER BY stream
LIMIT $2

-- find --
-- Everything of this id, whoever's it is.
SELECT stream, position, {names} FROM {table}
WHERE "{key}" = $1 {filters}
ORDER BY stream
LIMIT $2
