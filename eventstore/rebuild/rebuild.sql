-- find_generation --
-- How far a generation is, which code folded it, when it was live last, and how many attempts at its build there were.
SELECT status, target, fingerprints, retired_at, attempts FROM projections WHERE name = $1 AND generation = $2

-- start_build --
-- Enter up to where a generation is going to be built, and by which code.
UPDATE projections
SET version = $3, fingerprints = ARRAY[$4], target = $5, built = 0, attempts = $6,
    created_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE name = $1 AND generation = $2 AND status = 'building'
RETURNING generation

-- estimate_streams --
-- About how many streams the live generation has, by the statistics of Postgres; 0 if it has none.
SELECT coalesce(greatest(max(c.reltuples), 0), 0)::bigint
FROM projections AS p, pg_class AS c
WHERE p.name = $1 AND p.status = 'live' AND c.oid = to_regclass('projected.' || p.name || '_' || p.generation)

-- record_progress --
-- Enter how far a build is.
UPDATE projections SET built = $3, updated_at = clock_timestamp()
WHERE name = $1 AND generation = $2
    AND EXISTS (SELECT FROM leadership WHERE only_row AND term = $4 FOR SHARE)

-- finish_build --
-- Enter that a generation is built, and its counts; a CHECK holds their sum to the target.
UPDATE projections
SET status = 'catching-up', checkpoint = target, built = target, folded = $3, ignored = $4, quarantined = $5,
    updated_at = clock_timestamp()
WHERE name = $1 AND generation = $2 AND status = 'building'
    AND EXISTS (SELECT FROM leadership WHERE only_row AND term = $6 FOR SHARE)

-- count_ignored --
-- How many events up to $1 are of other topics than these.
SELECT count(*) FROM events WHERE position > 0 AND position <= $1 AND NOT provider || ' ' || topic = ANY($2::text[])

-- set_index_memory --
-- For this session: create indexes in so much memory.
SELECT set_config('maintenance_work_mem', $1, false)

-- analyze_table --
-- Gather statistics of a table that has been filled, of 300 times as many rows.
SET default_statistics_target = {statistics};
ANALYZE {table}

-- delete_quarantine --
-- Delete what a generation could not fold, before its build is started again.
DELETE FROM quarantine WHERE projection = $1 AND generation = $2

-- delete_refiled --
-- Delete what a generation folded elsewhere than on record, before its build is started again.
DELETE FROM refiled WHERE projection = $1 AND generation = $2

-- renumber_generation --
-- Start the build of a generation again, under the next number.
UPDATE projections
SET generation = generation + 1, status = 'building', checkpoint = 0, folded = 0, ignored = 0, quarantined = 0,
    failing = '{}', error = NULL, target = NULL, built = 0, ready_at = NULL, diff = NULL,
    waiting = NULL
WHERE name = $1 AND generation = $2 AND status IN ('building', 'catching-up', 'ready') AND retired_at IS NULL
RETURNING generation

-- mark_ready --
-- Enter that a generation has caught up with the live one, and how it differs from it.
UPDATE projections SET status = 'ready', ready_at = clock_timestamp(), diff = $3
WHERE name = $1 AND generation = $2 AND status <> 'live'
    AND EXISTS (SELECT FROM leadership WHERE only_row AND term = $4 FOR SHARE)

-- retire_live --
-- Retire the live generation $2, if $3 is not behind it.
UPDATE projections AS live
SET status = 'retired', retired_at = clock_timestamp(), wanted = NULL
FROM projections AS new
WHERE live.name = $1 AND live.generation = $2 AND live.status = 'live'
    AND new.name = $1 AND new.generation = $3 AND new.status = 'ready' AND new.checkpoint >= live.checkpoint
RETURNING live.generation

-- make_live --
-- Make a generation live, once the other is retired.
UPDATE projections
SET status = 'live', wanted = NULL, waiting = NULL, diff = NULL, retired_at = NULL, updated_at = clock_timestamp()
WHERE name = $1 AND generation = $2

-- list_surplus_generations --
-- The retired generations, but for the $2 that were live last.
SELECT generation FROM projections
WHERE name = $1 AND status = 'retired'
ORDER BY retired_at DESC
OFFSET $2

-- delete_generation --
-- Delete the entry of a generation, unless it is live.
DELETE FROM projections WHERE name = $1 AND generation = $2 AND status <> 'live' RETURNING generation

-- return_to_retired --
-- Give up to make a retired generation live again: it is retired as before.
UPDATE projections SET status = 'retired', wanted = NULL, waiting = NULL, error = $3
WHERE name = $1 AND generation = $2 AND status <> 'live' AND retired_at IS NOT NULL
    AND EXISTS (SELECT FROM leadership WHERE only_row AND term = $4 FOR SHARE)
RETURNING generation

-- mark_failed --
-- Enter why a generation could not be built, unless it is live.
UPDATE projections SET status = 'failed', wanted = NULL, waiting = NULL, error = $3
WHERE name = $1 AND generation = $2 AND status <> 'live'
RETURNING generation

-- commit_durably --
-- For this transaction: its commit waits for the disk, as those of folds do not.
SET LOCAL synchronous_commit = on

-- limit_lock_wait --
-- For this transaction: give up at once where others hold a lock. Whoever waits for one holds up every reader that comes
-- after; so long that what reads briefly is waited for, and not so long that a reader would notice.
SET LOCAL lock_timeout = '20ms'

-- list_readers --
-- The transactions that hold a lock on one of these views, and whose they are as far as this role may know.
SELECT DISTINCT l.pid, l.virtualtransaction, a.usename, a.application_name
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.relation = ANY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) AS name)
ORDER BY l.pid

-- record_waiting --
-- Enter what a promotion waits for.
UPDATE projections SET waiting = $3
WHERE name = $1 AND generation = $2 AND status = 'ready'
    AND EXISTS (SELECT FROM leadership WHERE only_row AND term = $4 FOR SHARE)

-- disable_idle_timeout --
-- For this session: between two statements may pass as much time as it takes to fold a long history.
SET idle_in_transaction_session_timeout = 0

-- read_range --
-- The events of these topics after one position up to another, whose streams hash to a range, in order. Fields of fixed
-- size come first, with the sizes of the others: EventReader in eventstore/log/copy_out.py reads this.
SELECT
    position, received_at, recorded_at, array_position(topics, provider || ' ' || topic)::int2 - 1::int2, event_id,
    octet_length(stream), octet_length(owner), octet_length(body), stream, owner, body
FROM (SELECT ARRAY[{topics}]::text[] AS topics) AS wanted, (
    SELECT *, merchant_id || coalesce(U&'\001E' || program_id, '') AS owner FROM events
) AS owned
WHERE position > {after} AND position <= {until}
    AND provider || ' ' || topic = ANY(topics)
    AND hashtext(stream) BETWEEN {low} AND {high}
ORDER BY position

-- delete_range --
-- Delete what an earlier attempt at a range left behind in a table.
DELETE FROM {table} WHERE hashtext(stream) BETWEEN $1 AND $2

-- delete_range_quarantine --
-- Delete what an earlier attempt at a range put in quarantine.
DELETE FROM quarantine WHERE projection = $1 AND generation = $2 AND hashtext(stream) BETWEEN $3 AND $4

-- delete_range_refiled --
-- Delete what an earlier attempt at a range entered as refiled.
DELETE FROM refiled WHERE projection = $1 AND generation = $2 AND hashtext(stream) BETWEEN $3 AND $4

-- list_streams_refiled_to --
-- The streams of a range, after $5, that a generation folds events in which are on record in others.
SELECT DISTINCT refiled_to FROM refiled
WHERE projection = $1 AND generation = $2 AND hashtext(refiled_to) BETWEEN $3 AND $4 AND refiled_to > $5
ORDER BY refiled_to
LIMIT $6

-- delete_streams --
-- Delete what a generation holds of these streams in a table, to write it anew.
DELETE FROM {table} WHERE stream = ANY($1::text[])

-- delete_streams_quarantine --
-- Take what a generation could not fold of these streams out of quarantine; gives back one row for each.
DELETE FROM quarantine WHERE projection = $1 AND generation = $2 AND stream = ANY($3::text[]) RETURNING position

-- live_lag --
-- How many events the live generation is behind; 0 if an error holds it up anyway.
SELECT coalesce(max(h.position - p.checkpoint), 0)
FROM projections AS p, log_head AS h
WHERE p.name = $1 AND p.status = 'live' AND p.error IS NULL

-- compare_states --
-- How many states there are before and after, added, gone and changed; then how many differ in each column.
SELECT
    count(o.stream), count(n.stream),
    count(*) FILTER (WHERE o.stream IS NULL),
    count(*) FILTER (WHERE n.stream IS NULL),
    count(*) FILTER (WHERE o.stream = n.stream AND {differs}),
    {counts}
FROM {old} AS o FULL JOIN {new} AS n ON o.stream = n.stream

-- compare_totals --
-- What the states add up to before and after, in groups.
SELECT {by}, sum(before)::numeric AS before, sum(after)::numeric AS after
FROM (
    SELECT {by}, coalesce("{amount}", 0)::numeric AS before, 0::numeric AS after FROM {old} {where}
    UNION ALL
    SELECT {by}, 0::numeric, coalesce("{amount}", 0)::numeric FROM {new} {where}
) AS amounts
GROUP BY {by}
ORDER BY {by}

-- compare_timelines --
-- How many rows there are before and after, added, gone and changed.
SELECT
    count(o.stream), count(n.stream),
    count(*) FILTER (WHERE o.stream IS NULL),
    count(*) FILTER (WHERE n.stream IS NULL),
    count(*) FILTER (WHERE o.stream = n.stream AND {differs})
FROM {old} AS o FULL JOIN {new} AS n ON o.stream = n.stream AND o.position = n.position

-- compare_postings --
-- The same of postings. An event has one of a group at a time.
SELECT
    coalesce(sum(olds), 0)::bigint, coalesce(sum(news), 0)::bigint,
    count(*) FILTER (WHERE olds = 0), count(*) FILTER (WHERE news = 0),
    count(*) FILTER (WHERE olds > 0 AND news > 0 AND before IS DISTINCT FROM after)
FROM (
    SELECT stream, sum(before) AS before, sum(after) AS after, count(before) AS olds, count(after) AS news
    FROM (
        SELECT stream, position, effective_at, {by}, amount AS before, NULL::numeric AS after FROM {old}
        UNION ALL
        SELECT stream, position, effective_at, {by}, NULL::numeric, amount FROM {new}
    ) AS amounts
    GROUP BY stream, position, effective_at, {by}
) AS postings

-- count_refiled --
-- How many events generations $2 and $3 fold in other streams than those on record.
SELECT count(*) FILTER (WHERE generation = $2), count(*) FILTER (WHERE generation = $3)
FROM refiled
WHERE projection = $1 AND generation IN ($2, $3)

-- sample_changed_states --
-- Some of the states that differ, or that only one side has.
SELECT coalesce(o.stream, n.stream) AS stream, {columns}
FROM {old} AS o FULL JOIN {new} AS n ON o.stream = n.stream
WHERE o.stream IS NULL OR n.stream IS NULL OR {differs}
ORDER BY 1
LIMIT {limit}

-- find_timeline_divergence --
-- The first event of a stream at which the timelines differ; null if they do not begin with the same event, since that of
-- a generation which is older than timelines begins somewhere.
SELECT
    min(coalesce(o.position, n.position)) FILTER (WHERE o.position IS NULL OR n.position IS NULL OR {differs}),
    min(o.position) = min(n.position)
FROM (SELECT * FROM {old} WHERE stream = $1) AS o
FULL JOIN (SELECT * FROM {new} WHERE stream = $1) AS n ON o.position = n.position

-- read_timelines --
-- The rows of the timelines of these streams, one stream after the other; arrays as text.
SELECT {names} FROM {table}
WHERE stream = ANY($1::text[])
ORDER BY stream, position

-- read_positions --
-- The checkpoints of generation $2 and of the live one, in the snapshot that is compared.
SELECT new.checkpoint AS position, live.checkpoint AS live_position, live.generation AS live
FROM projections AS new JOIN projections AS live ON live.name = new.name AND live.status = 'live'
WHERE new.name = $1 AND new.generation = $2
