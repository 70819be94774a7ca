-- create --
-- A table of one generation. It has room on its pages for rows that change in place.
CREATE TABLE IF NOT EXISTS {table} (
    {columns}
) WITH (fillfactor = 75)

-- create_key --
-- One row a stream.
CREATE UNIQUE INDEX IF NOT EXISTS {table}_pkey ON {table} (stream)

-- create_index --
-- One filter of the API. The column alone: beside the stream equal values would not share their place, and every update
-- that cannot be made in place pays for every index.
CREATE INDEX IF NOT EXISTS {index} ON {table} ("{column}") WHERE "{column}" IS NOT NULL

-- create_tenant_index --
-- Whose a thing is: what belongs to one lies together in the order of its lists, and far from the beginning.
CREATE INDEX IF NOT EXISTS {index} ON {table} ("{column}", stream)

-- create_journal_key --
-- What happened to one thing, in order; an event makes one entry at most.
CREATE UNIQUE INDEX IF NOT EXISTS {table}_pkey ON {table} (stream, position)

-- create_journal_times --
-- What happened in a time: entries lie in about that order already.
CREATE INDEX IF NOT EXISTS {table}_recorded_at ON {table} USING brin (recorded_at)

-- columns_there --
-- The columns of a table or a view, if there is one of this name.
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS sql_type, NOT a.attnotnull AS nullable
FROM pg_attribute AS a
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- loosen --
-- A column that no longer is written, or not as it was.
ALTER TABLE {table} ALTER COLUMN "{column}" DROP NOT NULL

-- rename --
-- A column that has another type now keeps what it held under another name.
ALTER TABLE {table} RENAME COLUMN "{column}" TO "{kept}"

-- forget --
-- What a column held two types ago.
ALTER TABLE {table} DROP COLUMN "{column}"

-- add --
-- A column that is new: null until a rebuild.
ALTER TABLE {table} ADD COLUMN "{column}" {sql_type}

-- hide --
-- A view of another shape.
DROP VIEW IF EXISTS {view}

-- is_shown --
-- Whether a view shows this table.
SELECT coalesce(pg_get_viewdef(to_regclass($1)) ~ ('FROM (\w+\.)?' || $2 || ';$'), false)

-- drop_index --
-- The index of a column that is given up.
DROP INDEX IF EXISTS {index}

-- show --
-- The view with the plain name shows the live generation.
CREATE OR REPLACE VIEW {view} AS SELECT {names} FROM {table}

-- drop --
-- A generation that nobody needs any more.
DROP TABLE IF EXISTS {table}

-- load --
-- The states of these streams.
SELECT stream, {names} FROM {table} WHERE stream = ANY($1::text[])

-- fold --
-- What one stretch of the log did to a generation, in one statement and so in one transaction: if the checkpoint is
-- still $3, move it to $4, count, and write what could not be folded ($8), the states that changed ($9; `position` is
-- the event that changed each last) and the journal ($10). Rows come as JSON, each an array.
WITH moved AS (
    UPDATE projections
    SET checkpoint = $4, folded = folded + $5, ignored = ignored + $6, failing = $7,
        quarantined = quarantined + jsonb_array_length($8::text::jsonb), updated_at = clock_timestamp()
    WHERE name = $1 AND generation = $2 AND checkpoint = $3
    RETURNING checkpoint
), kept AS (
    INSERT INTO quarantine (projection, generation, position, stream, error)
    SELECT $1, $2, (new ->> 0)::bigint, new ->> 1, new ->> 2
    FROM moved, jsonb_array_elements($8::text::jsonb) AS new
), saved AS (
    INSERT INTO {table} ({names})
    SELECT {values} FROM moved, jsonb_array_elements($9::text::jsonb) AS new
    ON CONFLICT (stream) DO UPDATE SET ({changes}) = ROW ({excluded})
){journaled}
SELECT checkpoint FROM moved

-- fold_journal --
, journaled AS (
    INSERT INTO {table} ({names})
    SELECT {values} FROM moved, jsonb_array_elements($10::text::jsonb) AS new
)

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
