-- create --
-- The table of one generation: one row a stream, the fields of the state as columns.
CREATE TABLE IF NOT EXISTS {table} (
    stream text PRIMARY KEY,
    position bigint NOT NULL,
    {columns}
)

-- create_index --
-- One filter of the API; the stream beside it is the order of its lists.
CREATE INDEX IF NOT EXISTS {index} ON {table} ({column}, stream)

-- show --
-- The view with the projection's plain name shows the live generation.
CREATE OR REPLACE VIEW {view} AS SELECT * FROM {table}

-- load --
-- The states of these streams.
SELECT stream, {names} FROM {table} WHERE stream = ANY($1::text[])

-- fold --
-- What one stretch of the log did to a generation, in one statement and so in one transaction: if the checkpoint is
-- still $3, move it to $4, count, write the states that changed (`position` is the event that changed each last), and
-- keep visible what could not be folded.
WITH moved AS (
    UPDATE projections
    SET checkpoint = $4, folded = folded + $5, ignored = ignored + $6, quarantined = quarantined + cardinality($7::bigint[]),
        updated_at = clock_timestamp()
    WHERE name = $1 AND generation = $2 AND checkpoint = $3
    RETURNING checkpoint
), kept AS (
    INSERT INTO quarantine (projection, generation, position, stream, error)
    SELECT $1, $2, new.position, new.stream, new.error
    FROM moved, unnest($7::bigint[], $8::text[], $9::text[]) AS new (position, stream, error)
), saved AS (
    INSERT INTO {table} (stream, position, {names})
    SELECT new.* FROM moved, unnest($10::text[], $11::bigint[], {arrays}) AS new
    ON CONFLICT (stream) DO UPDATE SET (position, {names}) = ROW (excluded.position, {excluded})
)
SELECT checkpoint FROM moved

-- page --
-- One page of a list, in the order of the streams.
SELECT stream, position, {names} FROM {table}
WHERE stream > $1 {filters}
ORDER BY stream
LIMIT $2

-- find --
-- Everything of this id, whoever's it is.
SELECT stream, position, {names} FROM {table}
WHERE id = $1 {filters}
ORDER BY stream
LIMIT $2
