-- For lists: where in the log a time is; which blocks of it may hold events of a merchant; quarantine by merchant.

-- Which blocks may hold events of a provider, a merchant, a programme or a topic: about a byte an event, and next to
-- nothing for an append. Blocks that were filled since are read until they are summarised, by whoever vacuums.
CREATE INDEX events_words ON events USING brin (
    provider text_bloom_ops, merchant_id text_bloom_ops (n_distinct_per_range = 600),
    program_id text_bloom_ops (n_distinct_per_range = 200), topic text_bloom_ops
) WITH (pages_per_range = 64, autosummarize = on);

-- The first position that was recorded at `moment` or later; the one behind the newest, if none was. Recorded times never
-- go back, so halving finds it.
CREATE FUNCTION first_recorded(moment timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 1;
    high bigint;
    middle bigint;
    found record;
BEGIN
    SELECT h.position + 1 INTO STRICT high FROM log_head AS h WHERE h.only_row;
    WHILE low < high LOOP
        middle := low + (high - low) / 2;
        -- Mostly that is the middle itself.
        SELECT e.position, e.recorded_at INTO found
        FROM events AS e
        WHERE e.position >= middle AND e.position < high
        ORDER BY e.position
        LIMIT 1;
        IF found IS NULL OR found.recorded_at >= moment THEN
            high := middle;
        ELSE
            low := found.position + 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;

-- By merchant, whose id is the second part of the stream.
CREATE INDEX quarantine_merchant ON quarantine (projection, generation, split_part(stream, '/', 2), position);
