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

-- save --
-- Write the states that changed; `position` is the event that changed each last.
INSERT INTO {table} (stream, position, {names})
SELECT * FROM unnest($1::text[], $2::bigint[], {arrays})
ON CONFLICT (stream) DO UPDATE SET (position, {names}) = ROW (excluded.position, {excluded})

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
