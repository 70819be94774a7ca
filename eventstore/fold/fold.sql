-- register_projection --
-- Enter the first generation of a projection, once.
INSERT INTO projections (name, generation, status, version)
SELECT $1, 1, 'live', $2
WHERE NOT EXISTS (SELECT FROM projections WHERE name = $1)
ON CONFLICT DO NOTHING

-- live_generation --
-- The live generation of a projection, and its checkpoint.
SELECT generation, checkpoint FROM projections WHERE name = $1 AND status = 'live'

-- read_checkpoint --
-- The checkpoint of a generation, and the failures in a row that end at it.
SELECT checkpoint, failing FROM projections WHERE name = $1 AND generation = $2

-- record_fingerprint --
-- Record which code folds a generation, before it does.
UPDATE projections SET fingerprints = array_append(fingerprints, $3)
WHERE name = $1 AND generation = $2 AND NOT $3 = ANY(fingerprints)

-- record_error --
-- Record what holds a generation up, or that nothing does any more.
UPDATE projections SET error = $3 WHERE name = $1 AND generation = $2 AND error IS DISTINCT FROM $3

-- list_generations --
-- The generations of the projection $1, or of all if that is null, beside the head, in one snapshot. An event that is
-- missing has waited since the checkpoint moved last.
SELECT
    p.*, h.position AS head, h.position - p.checkpoint AS lag,
    p.status = 'live' AND p.checkpoint < h.position
        AND coalesce(following.recorded_at, p.updated_at) < clock_timestamp() - interval '30 s' AS stuck,
    extract(epoch FROM coalesce(p.ready_at, clock_timestamp()) - p.created_at)::float8 AS seconds
FROM projections AS p
CROSS JOIN log_head AS h
LEFT JOIN (
    SELECT w.name, w.generation, e.recorded_at
    FROM projections AS w
    JOIN events AS e ON e.position = w.checkpoint + 1
    WHERE w.status = 'live'
) AS following ON following.name = p.name AND following.generation = p.generation
WHERE $1::text IS NULL OR p.name = $1
ORDER BY p.name, p.generation

-- request_rebuild --
-- Ask for a new generation, of which $2 is wanted once it is ready, if anything; null if a rebuild is under way.
SELECT request_rebuild($1, $2)

-- request_promotion --
-- Ask for the generation that is ready to be made live; null if none is.
SELECT request_promotion($1)

-- request_discard --
-- Ask for the rebuild under way to be discarded; null if there is none.
SELECT request_discard($1)

-- request_rollback --
-- Ask for the newest retired generation to be made live again; null if there is none.
SELECT request_rollback($1)

-- quarantined_streams --
-- The streams whose names end in /$2 and of which events are in quarantine in a projection's live generation.
SELECT DISTINCT q.stream
FROM quarantine AS q
JOIN projections AS p ON p.name = q.projection AND p.generation = q.generation AND p.status = 'live'
WHERE q.projection = $1 AND right(q.stream, length($2) + 1) = '/' || $2
ORDER BY q.stream

-- quarantined_positions --
-- Which events of a stream are in quarantine in a generation, and why.
SELECT position, error FROM quarantine WHERE projection = $1 AND generation = $2 AND stream = $3

-- find_quarantined --
-- The event at position $2, if it is in quarantine in a projection's live generation.
SELECT q.position, q.stream, e.topic, q.error, q.quarantined_at
FROM quarantine AS q
JOIN projections AS p ON p.name = q.projection AND p.generation = q.generation AND p.status = 'live'
JOIN events AS e ON e.position = q.position
WHERE q.projection = $1 AND q.position = $2

-- list_refiled --
-- The events after position $4 that generation $2 (null: the live one) folded in the stream $3, and not in that on
-- record.
SELECT r.position
FROM refiled AS r
JOIN projections AS p ON p.name = r.projection AND p.generation = r.generation
WHERE r.projection = $1 AND (p.generation = $2 OR $2::integer IS NULL AND p.status = 'live')
    AND r.refiled_to = $3 AND r.position > $4
ORDER BY r.position
LIMIT $5

-- create_table --
-- Create a table of a generation, with as much room on its pages as rows that are updated in place need.
CREATE TABLE IF NOT EXISTS {table} (
    {columns}
) WITH (fillfactor = {fillfactor})

-- distribute_table --
-- Where the log is distributed by Citus: put the rows of a stream on the machine that has its events. Colocated columns
-- need the same collation. Does nothing elsewhere, or a second time.
DO $$
BEGIN
    IF to_regclass('pg_dist_partition') IS NULL OR to_regclass('{table}') IS NULL THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrel = 'events'::regclass)
        AND NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrel = '{table}'::regclass)
    THEN
        ALTER TABLE {table} ALTER COLUMN stream TYPE text COLLATE "C";
        PERFORM create_distributed_table('{table}', 'stream', colocate_with => 'events');
    END IF;
END
$$

-- table_is_distributed --
-- Whether a table is distributed by Citus, or is not there.
SELECT to_regclass($1) IS NULL OR EXISTS (SELECT FROM pg_dist_partition WHERE logicalrel = to_regclass($1))

-- create_key --
-- Hold a table of states to one row a stream.
CREATE UNIQUE INDEX IF NOT EXISTS {name}_pkey ON {table} (stream)

-- create_filter_index --
-- Serve a filter of lists. Only the column is indexed: with the stream beside it equal values would not be deduplicated,
-- and every update that cannot be made in place pays for every index.
CREATE INDEX IF NOT EXISTS {index} ON {table} ("{column}") WHERE "{column}" IS NOT NULL

-- create_tenant_index --
-- Serve lists of one tenant: its rows are found in the order of streams, without reading those of other tenants.
CREATE INDEX IF NOT EXISTS {index} ON {table} ("{column}", stream)

-- create_reference_index --
-- Serve a filter by a text or by its beginning.
CREATE INDEX IF NOT EXISTS {index} ON {table} ({expression}) WHERE "{column}" IS NOT NULL

-- create_words_index --
-- Serve a search for words, or their beginnings.
CREATE INDEX IF NOT EXISTS {index} ON {table} USING gin (({expression}))

-- create_secret_index --
-- Serve a search by an exact secret, of any length; the index does not hold it.
CREATE INDEX IF NOT EXISTS {index} ON {table} USING hash ("{column}")

-- create_order_index --
-- Serve lists in an order, and ranges of what they are sorted by.
CREATE INDEX IF NOT EXISTS {index} ON {table} ({expression})

-- create_deleted_index --
-- Serve lists of what is deleted.
CREATE INDEX IF NOT EXISTS {index} ON {table} (stream) WHERE "{column}" IS NOT NULL

-- create_timeline_pkey --
-- Hold a timeline to one row an event, and serve the facts of a thing. To put those of one thing in the order in which
-- they count takes less than an index of that order costs each fact.
CREATE UNIQUE INDEX IF NOT EXISTS {name}_pkey ON {table} (stream, position)

-- create_timeline_recorded_at --
-- Serve what was recorded in a period of time; it is stored in about that order already.
CREATE INDEX IF NOT EXISTS {name}_recorded_at ON {table} USING brin (recorded_at)

-- create_postings_stream --
-- Serve the postings of one thing. Only the stream is indexed: equal values are deduplicated.
CREATE INDEX IF NOT EXISTS {name}_stream ON {table} (stream)

-- create_postings_effective_at --
-- Serve sums up to a time: mostly postings are stored in about that order already.
CREATE INDEX IF NOT EXISTS {name}_effective_at ON {table} USING brin (effective_at)

-- list_columns --
-- The columns of a table or a view; none if it does not exist.
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS sql_type, NOT a.attnotnull AS nullable
FROM pg_attribute AS a
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- drop_not_null --
-- For a column that is no longer written, or has another type now.
ALTER TABLE {table} ALTER COLUMN "{column}" DROP NOT NULL

-- rename_column --
-- Keep what a column holds under another name, since the column has another type now.
ALTER TABLE {table} RENAME COLUMN "{column}" TO "{kept}"

-- drop_column --
-- Drop what a column held two types ago.
ALTER TABLE {table} DROP COLUMN "{column}"

-- add_column --
-- Add a column: null until a rebuild.
ALTER TABLE {table} ADD COLUMN "{column}" {sql_type}

-- drop_view --
-- Drop a view and its masked counterpart, to create them with other column types.
DROP VIEW IF EXISTS {masked};
DROP VIEW IF EXISTS {view}

-- relation_exists --
-- Whether there is a table, a view or an index of this name.
SELECT to_regclass($1) IS NOT NULL

-- view_shows_table --
-- Whether a view shows this table; from the catalogue, where nobody's lock is waited for.
SELECT EXISTS (
    SELECT FROM pg_depend AS d JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    WHERE r.ev_class = to_regclass($1)
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($2) AND d.refobjsubid > 0
)

-- list_indexes --
-- The indexes of a table that name this column.
SELECT DISTINCT c.relname
FROM pg_depend AS d
JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'i'
JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($1)
    AND a.attname = $2

-- has_rows --
-- Whether a table has any row.
SELECT count(*) > 0 FROM (SELECT 1 FROM {table} LIMIT 1) AS first

-- index_is_valid --
-- Whether an index can be used; null if there is none.
SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)

-- drop_index_concurrently --
-- Drop an index while its table is in use.
DROP INDEX CONCURRENTLY IF EXISTS {schema}.{index}

-- drop_index --
-- Drop the index of a column that is given up.
DROP INDEX IF EXISTS {schema}.{index}

-- create_view --
-- Have the view with the plain name show the live generation.
CREATE OR REPLACE VIEW {view} AS SELECT {names} FROM {source}

-- comment_on_view --
-- Note what a view was made of.
COMMENT ON VIEW {view} IS '{comment}'

-- timeline_states --
-- What was known of a thing after each of its facts, in the order in which they count: of one column and the one beside
-- it. `last_given` is where a column was given last, `beginning` the creation that came after a deletion.
SELECT
    *, lag(value) OVER facts AS value_before, lag(unit) OVER facts AS unit_before, lag(deleted) OVER facts AS was_deleted
FROM (
    SELECT
        stream, position, recorded_at, effective_at, rank, fact, number, deleted,
        CASE WHEN value_at >= beginning THEN nth_value("{column}", value_at::int) OVER facts ELSE {default} END AS value,
        CASE WHEN unit_at >= beginning THEN nth_value("{beside}", unit_at::int) OVER facts ELSE {default_beside} END AS unit
    FROM (
        SELECT
            *, coalesce(max(number) FILTER (WHERE fact = 'creation' AND was_deleted) OVER facts, 1) AS beginning,
            max(number) FILTER (WHERE absent IS NULL OR NOT '{column}' = ANY(absent)) OVER facts AS value_at,
            max(number) FILTER (WHERE absent IS NULL OR NOT '{beside}' = ANY(absent)) OVER facts AS unit_at
        FROM (
            SELECT *, coalesce(lag(deleted) OVER facts, false) AS was_deleted
            FROM (
                SELECT
                    *, coalesce(
                        max(number) FILTER (WHERE fact = 'deletion') OVER facts
                            > coalesce(max(number) FILTER (WHERE fact = 'creation') OVER facts, 0),
                        false
                    ) AS deleted
                FROM (
                    SELECT *, row_number() OVER facts AS number
                    FROM {table}
                    WINDOW facts AS (PARTITION BY stream ORDER BY effective_at, rank, position)
                ) AS numbered
                WINDOW facts AS (PARTITION BY stream ORDER BY effective_at, rank, position)
            ) AS marked
            WINDOW facts AS (PARTITION BY stream ORDER BY effective_at, rank, position)
        ) AS lived
        WINDOW facts AS (PARTITION BY stream ORDER BY effective_at, rank, position)
    ) AS given
    WINDOW facts AS (PARTITION BY stream ORDER BY effective_at, rank, position)
) AS known
WINDOW facts AS (PARTITION BY stream ORDER BY effective_at, rank, position)

-- changes_of_amounts --
-- An entry for every fact that changed an amount: nothing, once the thing is deleted. What changes its unit has two
-- entries.
SELECT
    stream, position, recorded_at, change.before, change.after,
    coalesce(change.after, 0)::numeric - coalesce(change.before, 0)::numeric AS delta,
    change.unit AS "{beside}", effective_at, fact
FROM (
    SELECT
        *, unit IS NOT DISTINCT FROM unit_before AS same,
        CASE WHEN NOT was_deleted THEN value_before END AS was, CASE WHEN NOT deleted THEN value END AS is_now
    FROM (
{states}
    ) AS states
) AS compared
CROSS JOIN LATERAL (
    VALUES (was, CASE WHEN same THEN is_now END, unit_before), (NULL, CASE WHEN NOT same THEN is_now END, unit)
) AS change (before, after, unit)
WHERE change.before IS DISTINCT FROM change.after

-- changes_of_words --
-- An entry for every fact that changed a word or the one beside it; the first of a thing always does.
SELECT
    stream, position, recorded_at, value_before AS "from", value AS "to", unit AS "{beside}", effective_at, fact
FROM (
{states}
) AS states
WHERE number = 1 OR value IS DISTINCT FROM value_before OR unit IS DISTINCT FROM unit_before

-- create_masked_view --
-- Show the same without secrets: the comment says what is masked, and what this code does not know.
CREATE OR REPLACE VIEW {masked} AS SELECT {names} FROM {view};
COMMENT ON VIEW {masked} IS '{comment}'

-- read_comment --
-- The comment on a view; null if there is none, or no such view.
SELECT obj_description(to_regclass($1), 'pg_class')

-- drop_masked_view --
-- Drop a masked view, to create it with other columns.
DROP VIEW IF EXISTS {masked}

-- drop_table --
-- Drop a table of a generation that nobody needs any more.
DROP TABLE IF EXISTS {table}

-- find_other_tenant --
-- A state that is not of one tenant of one provider (streams begin with $1).
SELECT 1 FROM {table} WHERE NOT starts_with(stream, $1) LIMIT 1

-- load_timelines --
-- The rows of the timelines of these streams up to a position; arrays as text.
SELECT {names} FROM {table} WHERE stream = ANY($1::text[]) AND position <= $2

-- load_states --
-- The states of these streams.
SELECT stream, position, {names} FROM {table} WHERE stream = ANY($1::text[])

-- write_batch --
-- Write what one slice of the log changed in a generation, in one statement and so in one transaction: if the
-- checkpoint is still $3, move it to $4, count, and write what could not be folded ($8), the states that changed ($9;
-- `position` is the event that changed each last), new rows of timeline ($11) and postings ($12), and last which events are
-- folded in other streams than on record. Rows come as JSON, each an array.
--
-- $10 are the positions of the states that these were folded from, in ascending order; a position says which stream it
-- is of. If the table holds another one by now, all of it fails with division_by_zero: nothing else here divides, a
-- SQLSTATE arrives from whichever machine holds the row, and no count of rows written has to be believed. A row that
-- another transaction has yet to commit is waited for first.
WITH moved AS (
    UPDATE projections
    SET checkpoint = $4, folded = folded + $5, ignored = ignored + $6, failing = $7::text::jsonb,
        quarantined = quarantined + jsonb_array_length($8::text::jsonb), updated_at = clock_timestamp()
    WHERE name = $1 AND generation = $2 AND checkpoint = $3
    RETURNING checkpoint
), write_quarantine AS (
    INSERT INTO quarantine (projection, generation, position, stream, error)
    SELECT $1, $2, (new ->> 0)::bigint, new ->> 1, new ->> 2
    FROM moved, jsonb_array_elements($8::text::jsonb) AS new
), write_refiled AS (
    INSERT INTO refiled (projection, generation, position, stream, refiled_to)
    SELECT $1, $2, (new ->> 0)::bigint, new ->> 1, new ->> 2
    FROM moved, jsonb_array_elements({refiled}::text::jsonb) AS new
), write_states AS (
    INSERT INTO {table} ({names})
    SELECT {values} FROM moved, jsonb_array_elements($9::text::jsonb) AS new
    ON CONFLICT (stream) DO UPDATE SET (position, {changes}) = ROW (
        excluded.position / coalesce(
            {table}.position = ($10::bigint[])[width_bucket({table}.position, $10::bigint[])], false
        )::int,
        {excluded}
    )
){write_new_rows}
SELECT checkpoint FROM moved

-- write_new_rows --
-- The part of write_batch that writes new rows to a table, where a projection has it.
, write_{part} AS (
    INSERT INTO {table} ({names})
    SELECT {values} FROM moved, jsonb_array_elements(${parameter}::text::jsonb) AS new
)
