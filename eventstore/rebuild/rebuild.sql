-- ask_rebuild --
-- Ask for a new generation; a rebuild that failed makes room for it.
INSERT INTO projections (name, generation, status, version, wanted)
SELECT name, max(generation) + 1, 'building', 0, $2
FROM projections
WHERE name = $1
GROUP BY name
ON CONFLICT DO NOTHING
RETURNING generation

-- forget_failed --
-- Forget a rebuild that failed; its tables are gone already.
DELETE FROM projections WHERE name = $1 AND status = 'failed'

-- ask_promotion --
-- Ask for the generation that is ready to be made live.
UPDATE projections SET wanted = 'promote' WHERE name = $1 AND status = 'ready' RETURNING generation

-- ask_discard --
-- Ask for the rebuild under way to be forgotten.
UPDATE projections SET wanted = 'discard'
WHERE name = $1 AND status IN ('building', 'catching-up', 'ready', 'failed')
RETURNING generation

-- ask_rollback --
-- Ask for the generation that was live last to be made live again.
UPDATE projections SET status = 'catching-up', wanted = 'promote', ready_at = NULL, diff = NULL, error = NULL
WHERE name = $1 AND generation = (
    SELECT generation FROM projections
    WHERE name = $1 AND status = 'retired'
    ORDER BY retired_at DESC
    LIMIT 1
)
RETURNING generation

-- registered --
-- How far a generation is, whose code folded it, and whether it was live once.
SELECT status, target, fingerprints, retired_at FROM projections WHERE name = $1 AND generation = $2

-- begin_build --
-- Enter what is going to be built, by which code.
UPDATE projections
SET version = $3, fingerprints = ARRAY[$4], target = $5, built = 0, created_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE name = $1 AND generation = $2 AND status = 'building'
RETURNING generation

-- expect_streams --
-- About how many streams the live generation has: what Postgres has counted last, if it has.
SELECT coalesce(greatest(max(c.reltuples), 0), 0)::bigint
FROM projections AS p, pg_class AS c
WHERE p.name = $1 AND p.status = 'live' AND c.oid = to_regclass(p.name || '_' || p.generation)

-- note_built --
-- How far a build is.
UPDATE projections SET built = $3, updated_at = clock_timestamp() WHERE name = $1 AND generation = $2

-- end_build --
-- It is built; the database itself holds the sum to the target.
UPDATE projections
SET status = 'catching-up', checkpoint = target, built = target, folded = $3, ignored = $4, quarantined = $5,
    updated_at = clock_timestamp()
WHERE name = $1 AND generation = $2 AND status = 'building'

-- count_ignored --
-- How many events up to $1 are of other topics than these.
SELECT count(*) FROM events WHERE position <= $1 AND NOT provider || ' ' || topic = ANY($2::text[])

-- sort_in_memory --
-- For this session: make indexes in so much memory.
SELECT set_config('maintenance_work_mem', $1, false)

-- forget_quarantine --
-- What a generation could not fold, before it is begun again.
DELETE FROM quarantine WHERE projection = $1 AND generation = $2

-- renumber --
-- Begin a generation again, under the next number.
UPDATE projections
SET generation = generation + 1, status = 'building', checkpoint = 0, folded = 0, ignored = 0, quarantined = 0,
    failing = 0, error = NULL, target = NULL, built = 0, ready_at = NULL, diff = NULL
WHERE name = $1 AND generation = $2 AND status IN ('building', 'catching-up', 'ready') AND retired_at IS NULL
RETURNING generation

-- note_ready --
-- A generation is level with the live one, and compared.
UPDATE projections SET status = 'ready', ready_at = clock_timestamp(), diff = $3
WHERE name = $1 AND generation = $2 AND status <> 'live'

-- switch --
-- Retire the live generation $2, if $3 is not behind it.
UPDATE projections AS live
SET status = 'retired', retired_at = clock_timestamp(), wanted = NULL
FROM projections AS new
WHERE live.name = $1 AND live.generation = $2 AND live.status = 'live'
    AND new.name = $1 AND new.generation = $3 AND new.status = 'ready' AND new.checkpoint >= live.checkpoint
RETURNING live.generation

-- switch_on --
-- Make a generation live.
UPDATE projections SET status = 'live', wanted = NULL, diff = NULL, retired_at = NULL, updated_at = clock_timestamp()
WHERE name = $1 AND generation = $2

-- too_many_retired --
-- The generations that were live before the $2 that were so last.
SELECT generation FROM projections
WHERE name = $1 AND status = 'retired'
ORDER BY retired_at DESC
OFFSET $2

-- forget_generation --
-- Forget a generation, unless it is live.
DELETE FROM projections WHERE name = $1 AND generation = $2 AND status <> 'live' RETURNING generation

-- retire_again --
-- Leave a generation that was live once as it was.
UPDATE projections SET status = 'retired', wanted = NULL, error = $3
WHERE name = $1 AND generation = $2 AND status <> 'live' AND retired_at IS NOT NULL
RETURNING generation

-- fail_build --
-- Say why a generation could not be built, unless it is live.
UPDATE projections SET status = 'failed', wanted = NULL, error = $3
WHERE name = $1 AND generation = $2 AND status <> 'live'
RETURNING generation

-- wait_for_disk --
-- For this transaction: its commit waits for the disk.
SET LOCAL synchronous_commit = on

-- wait_for_no_reader --
-- For this transaction: give up soon where somebody reads what it would change.
SET LOCAL lock_timeout = '200ms'

-- stay_in_transaction --
-- For this session: between two questions may pass as much time as it takes to fold a long history.
SET idle_in_transaction_session_timeout = 0
