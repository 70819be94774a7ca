-- lock_schema --
-- Let one server at a time set the schema up; others wait.
SELECT pg_advisory_xact_lock(hashtext('loopledger schema'))

-- limit_turn_wait --
-- For this transaction: whoever waits for the lock below holds up nobody, but is to say so now and then.
SET LOCAL lock_timeout = '5s'

-- limit_lock_wait --
-- For this transaction: nobody waits for long behind us for a lock that we wait for.
SET LOCAL lock_timeout = '100ms'

-- has_schema --
-- Whether this database holds Loopledger already. Not by to_regclass(): it may go by what was looked up before the lock.
SELECT EXISTS (SELECT FROM pg_class AS c WHERE c.relname = 'schema_versions' AND pg_table_is_visible(c.oid))

-- schema_version --
-- The newest migration applied; null on a database that has never held Loopledger.
SELECT max(version) FROM schema_versions

-- record_version --
-- Enter a migration as applied.
INSERT INTO schema_versions (version) VALUES ($1)

-- set_up_session --
-- For every session: what not every version has, and what a superuser may have set. Whatever is set already is left alone.
SELECT set_config(name, value, false)
FROM (VALUES
    ('transaction_timeout', '0'),
    ('restrict_nonsystem_relation_kind', ''),
    ('session_replication_role', 'origin')
) AS wanted (name, value)
WHERE current_setting(name, true) <> value

-- server_process --
-- Which process of the server serves this session now, and whether the settings of the session reached it.
SELECT pg_backend_pid() AS pid, current_setting('loopledger.session', true) IS NOT DISTINCT FROM 'set up' AS set_up

-- find_schema --
-- The schemas that hold a log, but are not on the search path.
SELECT n.nspname
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'log_head' AND c.relkind = 'r' AND NOT n.nspname = ANY(current_schemas(false))
ORDER BY 1

-- wait_for_disk --
-- For this session: a commit waits for the disk, even if the role or the database is set to hurry.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'

-- commit_without_waiting --
-- For a session that only says what may be lost: a commit need not wait for the disk.
SET synchronous_commit = off

-- set_up_for_folding --
-- For a session that only writes what can be folded again: a commit need not wait for the disk, and no plan depends on
-- the values; to plan a fold takes longer than to carry a small one out. A plan that is kept since a table was empty must
-- not read the whole of it once it is large.
SET synchronous_commit = off;
SET enable_seqscan = off;
SELECT set_config('plan_cache_mode', 'force_generic_plan', false) WHERE to_regclass('pg_dist_partition') IS NULL;
-- Citus plans by the values: they say on which machine a row is. What one transaction writes goes by one connection a
-- machine, and a new partition takes the triggers of the log with it.
SELECT
    set_config('citus.multi_shard_modify_mode', 'sequential', false),
    set_config('citus.enable_unsafe_triggers', 'on', false)
WHERE to_regclass('pg_dist_partition') IS NOT NULL

-- has_citus --
-- Whether this database has the Citus extension.
SELECT to_regclass('pg_dist_partition') IS NOT NULL

-- is_distributed --
-- Whether the log is distributed, where there is Citus.
SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrel = to_regclass('events'))

-- fsync --
-- Whether the server itself waits for the disk.
SELECT current_setting('fsync')

-- unlogged_tables --
-- Tables of the log that a crash would empty.
SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname)
FROM pg_class AS c
WHERE c.relpersistence = 'u' AND (
    c.oid IN (to_regclass('log_head'), to_regclass('timelines'), to_regclass('events'))
    OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('events'))
)

-- check_head --
-- The newest position by the head and by the events themselves: they must agree. Where the log is distributed over
-- machines, an event of a moment ago may come late.
SELECT
    h.position AS head, e.newest,
    to_regclass('pg_dist_partition') IS NOT NULL AND h.recorded_at > clock_timestamp() - interval '30 s' AS may_come_late
FROM log_head AS h
CROSS JOIN (SELECT coalesce(max(position), 0) AS newest FROM events) AS e
WHERE h.only_row

-- live_checkpoints --
-- Where folding goes on.
SELECT DISTINCT checkpoint FROM projections WHERE status = 'live' ORDER BY checkpoint

-- find_hole --
-- The first position from $1 to $2 that holds no event; null if all do.
SELECT min(n)
FROM generate_series($1::bigint, $2::bigint) AS n
LEFT JOIN (SELECT position FROM events WHERE position >= $1 AND position <= $2) AS e ON e.position = n
WHERE e.position IS NULL

-- try_to_lead --
-- Become the one session that projects, if nobody is.
SELECT pg_try_advisory_lock(hashtext('loopledger projector'))

-- begin_term --
-- For the session that leads from now on: a new term begins. What the last leader is writing is waited for.
UPDATE leadership
SET term = term + 1, pid = pg_backend_pid(), began_at = clock_timestamp(),
    backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
WHERE only_row
RETURNING term

-- still_leads --
-- For the session that leads: whether term $1 is the one that runs. Asking keeps the session from counting as silent.
SELECT term = $1 FROM leadership WHERE only_row

-- hold_term --
-- Keep another term from beginning until this transaction ends, if term $1 is the one that runs; null if it is not.
SELECT term FROM leadership WHERE only_row AND term = $1 FOR SHARE

-- end_silent_leader --
-- End the session that leads if it has asked for nothing in $1 seconds: its process is dead, stopped or cut off.
SELECT pg_terminate_backend(a.pid)
FROM leadership AS l JOIN pg_stat_activity AS a ON a.pid = l.pid AND a.backend_start = l.backend_start
WHERE l.only_row AND a.state_change < clock_timestamp() - make_interval(secs => $1)

-- ping --
-- Succeeds if the server answers queries.
SELECT 1
