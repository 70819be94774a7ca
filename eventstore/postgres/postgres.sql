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

-- fill_segments --
-- Go through so many segments of write-ahead log; at the next checkpoint they are made ready to be written again.
SELECT count(pg_switch_wal())
FROM (SELECT pg_logical_emit_message(false, 'loopledger', '') FROM generate_series(1, {segments}) OFFSET 0) AS written

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
-- For a session that only says what may be lost, or writes what can be folded again: a commit need not wait for the disk.
SET synchronous_commit = off

-- keep_plans --
-- For a session that appends or folds: no plan depends on the values, and planning takes longer than executing something
-- small. A plan that is kept since a table was empty must not read the whole of it once it is large; and the head is found
-- by its index, however many versions of its row a long snapshot keeps.
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

-- count_events --
-- How many positions after $1, up to $2, hold an event.
SELECT count(*) FROM events WHERE position > $1 AND position <= $2

-- find_hole --
-- The first position after $1, up to $2, that holds no event; null if all do.
SELECT min(n)
FROM generate_series($1::bigint + 1, $2::bigint) AS n
LEFT JOIN (SELECT position FROM events WHERE position > $1 AND position <= $2) AS e ON e.position = n
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


-- has_role --
-- Whether there is a role of this name.
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)

-- create_role --
-- Make a role that may do nothing yet.
CREATE ROLE {role} LOGIN

-- set_password --
-- Set a password. It is random and long: to hash it often, as is done for those that people choose, would only make
-- every connection slower.
SET scram_iterations = 1;
ALTER ROLE {role} LOGIN PASSWORD '{password}'

-- has_database --
-- Whether there is a database of this name.
SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)

-- create_database --
-- Make a database that belongs to a role.
CREATE DATABASE {name} OWNER {owner}

-- set_up_roles --
-- Who may enter the embedded server's databases, and what else concerns the roles as such.
ALTER DATABASE loopledger OWNER TO loopledger_owner;
REVOKE ALL ON DATABASE loopledger, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE loopledger TO loopledger_receiver, loopledger_projector, loopledger_reader;
GRANT loopledger_projector TO loopledger_owner;
ALTER ROLE loopledger_reader SET search_path = masked;
ALTER ROLE loopledger_reader SET default_transaction_read_only = on

-- list_new_owners --
-- What gives all that $1 owns in this database to $2, if it is nothing of Postgres's own.
SELECT format('ALTER %s OWNER TO %I', what, $2::text)
FROM (
    SELECT format('SCHEMA %I', n.nspname) AS what
    FROM pg_namespace AS n
    WHERE n.nspowner = $1::text::regrole AND n.nspname <> 'public' AND n.oid >= 16384
    UNION ALL
    SELECT format('%s %s', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
        c.oid::regclass)
    FROM pg_class AS c
    WHERE c.relowner = $1::text::regrole AND c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm')
        AND c.relnamespace::regnamespace::text !~ '^pg_'
    UNION ALL
    SELECT format('FUNCTION %s', p.oid::regprocedure)
    FROM pg_proc AS p
    WHERE p.proowner = $1::text::regrole AND p.oid >= 16384 AND p.prokind = 'f'
) AS owned

-- current_role --
-- As whom this session acts.
SELECT current_user

-- missing_privileges --
-- What the roles have to do and may not yet, as the statements that allow it; this is all that they may. Without $1 the
-- receiver and the projector are not in use, and there is only the reader to think of.
WITH wanted (role, kind, object, privilege) AS (
    SELECT role, 'SCHEMA', quote_ident(current_schema()), 'USAGE'
    FROM unnest(ARRAY['loopledger_receiver', 'loopledger_projector']) AS role
    UNION ALL
    VALUES
        ('loopledger_receiver', 'SCHEMA', 'projected', 'USAGE'),
        ('loopledger_projector', 'SCHEMA', 'masked', 'USAGE'),
        ('loopledger_projector', 'SCHEMA', 'masked', 'CREATE'),
        ('loopledger_reader', 'SCHEMA', 'masked', 'USAGE')
    UNION ALL
    SELECT role, 'TABLE', name, 'SELECT'
    FROM unnest(ARRAY['loopledger_receiver', 'loopledger_projector']) AS role,
        unnest(ARRAY['schema_versions', 'log_head', 'log_scan', 'timelines', 'events', 'projections', 'quarantine', 'refiled']) AS name
    UNION ALL
    SELECT 'loopledger_projector', 'TABLE', name, privilege
    FROM unnest(ARRAY['projections', 'quarantine', 'refiled']) AS name, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE']) AS privilege
    UNION ALL
    VALUES
        ('loopledger_projector', 'TABLE', 'leadership', 'SELECT'),
        ('loopledger_projector', 'TABLE', 'leadership', 'UPDATE'),
        ('loopledger_projector', 'TABLE', 'log_scan', 'UPDATE')
    UNION ALL
    VALUES
        ('loopledger_receiver', 'TABLE', 'keys', 'SELECT'),
        ('loopledger_receiver', 'TABLE', 'rejections', 'SELECT'),
        ('loopledger_receiver', 'TABLE', 'rejections', 'DELETE')
    UNION ALL
    -- It may not vouch for what it has refused.
    SELECT 'loopledger_receiver', 'COLUMN', a.attname, privilege
    FROM pg_attribute AS a, unnest(ARRAY['INSERT', 'UPDATE']) AS privilege
    WHERE a.attrelid = 'rejections'::regclass AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attname NOT IN ('id', 'trusted')
    UNION ALL
    SELECT 'loopledger_receiver', 'FUNCTION', p.oid::regprocedure::text, 'EXECUTE'
    FROM pg_proc AS p
    WHERE p.pronamespace = current_schema()::regnamespace AND p.prosecdef AND p.proname <> 'make_partitions'
    UNION ALL
    SELECT CASE c.relnamespace::regnamespace::text WHEN 'masked' THEN 'loopledger_reader' ELSE 'loopledger_receiver' END,
        'TABLE', c.oid::regclass::text, 'SELECT'
    FROM pg_class AS c
    WHERE c.relnamespace IN ('projected'::regnamespace, 'masked'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
), folding (role) AS (
    SELECT CASE WHEN $1 THEN 'loopledger_projector' ELSE current_user END
)
SELECT statement
FROM (
    SELECT 1 AS step, 'ALTER SCHEMA projected OWNER TO loopledger_projector' AS statement
    FROM pg_namespace AS n
    WHERE $1 AND n.nspname = 'projected' AND n.nspowner::regrole::text <> 'loopledger_projector'
    UNION ALL
    SELECT CASE w.kind WHEN 'SCHEMA' THEN 2 ELSE 4 END,
        CASE w.kind
            WHEN 'COLUMN' THEN format('GRANT %s (%I) ON TABLE rejections TO %I', w.privilege, w.object, w.role)
            ELSE format('GRANT %s ON %s %s TO %I', w.privilege, w.kind, w.object, w.role)
        END
    FROM wanted AS w
    JOIN pg_roles AS r ON r.rolname = w.role
    WHERE ($1 OR w.role = 'loopledger_reader') AND NOT CASE w.kind
        WHEN 'SCHEMA' THEN has_schema_privilege(r.oid, w.object::regnamespace, w.privilege)
        WHEN 'TABLE' THEN has_table_privilege(r.oid, w.object, w.privilege)
        WHEN 'COLUMN' THEN has_column_privilege(r.oid, 'rejections', w.object, w.privilege)
        ELSE has_function_privilege(r.oid, w.object, w.privilege)
    END
    UNION ALL
    SELECT 3, format('ALTER %s %s OWNER TO loopledger_projector', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
        c.oid::regclass)
    FROM pg_class AS c
    WHERE $1 AND c.relkind IN ('r', 'p', 'v') AND c.relowner::regrole::text <> 'loopledger_projector'
        AND (
            c.relnamespace = 'projected'::regnamespace
            OR c.relnamespace = 'masked'::regnamespace AND c.oid <> 'masked.events'::regclass
        )
    UNION ALL
    SELECT 5, format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %s GRANT SELECT ON TABLES TO %s', f.role, d.place, d.role
    )
    FROM folding AS f, (
        VALUES ('projected', 'loopledger_receiver'), ('masked', 'loopledger_reader')
    ) AS d (place, role)
    JOIN pg_roles AS r ON r.rolname = d.role
    WHERE ($1 OR d.role = 'loopledger_reader') AND NOT EXISTS (
        SELECT FROM pg_default_acl AS a, aclexplode(a.defaclacl) AS e
        WHERE a.defaclrole::regrole::text = quote_ident(f.role) AND a.defaclnamespace = d.place::regnamespace
            AND a.defaclobjtype = 'r' AND e.grantee = r.oid AND e.privilege_type = 'SELECT'
    )
) AS missing (step, statement)
ORDER BY step
