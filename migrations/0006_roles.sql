-- Least privilege: what is written by fewer than all gets a schema of its own, and what receives deliveries only functions.
-- eventstore/postgres/postgres.sql says which role may do what with it (missing_privileges).

-- Tables, views and journals of the projections; and what of all data a report may see.
CREATE SCHEMA projected;
CREATE SCHEMA masked;

-- The generations so far. Theirs are the unique indexes by stream that no constraint stands for; one that is being built
-- has none yet.
DO $$
DECLARE
    kind record;
    found record;
BEGIN
    FOR kind IN
        SELECT DISTINCT regexp_replace(t.relname, '_\d+$', '') AS name
        FROM pg_class AS t
        JOIN pg_class AS i ON i.relname = t.relname || '_pkey' AND i.relnamespace = t.relnamespace
        JOIN pg_index AS x ON x.indexrelid = i.oid AND x.indrelid = t.oid AND x.indisunique
        JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = x.indkey[0] AND a.attname = 'stream'
        WHERE t.relnamespace = current_schema()::regnamespace AND t.relkind = 'r' AND NOT t.relispartition
            AND t.relname ~ '_\d+$' AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.oid)
    LOOP
        FOR found IN
            SELECT oid::regclass AS relation, relkind FROM pg_class
            WHERE relnamespace = current_schema()::regnamespace AND NOT relispartition
                AND (relkind = 'r' AND relname ~ ('^' || kind.name || '_\d+$') OR relkind = 'v' AND relname = kind.name)
        LOOP
            EXECUTE format(
                'ALTER %s %s SET SCHEMA projected',
                CASE found.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, found.relation
            );
        END LOOP;
    END LOOP;
END
$$;

-- Whoever was let see one of them still is.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE e.grantee::regrole::text END
        FROM pg_class AS c, aclexplode(c.relacl) AS e
        WHERE c.relnamespace = 'projected'::regnamespace AND e.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA projected TO %s', grantee);
    END LOOP;
END
$$;

-- The log without what was sent.
CREATE VIEW masked.events AS
SELECT
    position, event_id, provider, topic, merchant_id, program_id, stream, received_at, recorded_at,
    octet_length(body) AS size
FROM events;

-- Wait for every append under way, and keep others out until this transaction ends.
CREATE FUNCTION lock_head() RETURNS log_head
LANGUAGE sql AS $$
    SELECT * FROM log_head AS h WHERE h.only_row FOR UPDATE
$$;

-- Ask for a new generation of a projection; a rebuild that failed makes room for it. `wanted` is what is to become of it,
-- or null. Null if one is under way.
CREATE FUNCTION request_rebuild(projection text, wanted text) RETURNS integer
LANGUAGE sql AS $$
    DELETE FROM projections AS p WHERE p.name = projection AND p.status = 'failed';
    INSERT INTO projections AS p (name, generation, status, version, wanted)
    SELECT o.name, max(o.generation) + 1, 'building', 0, $2
    FROM projections AS o
    WHERE o.name = projection
    GROUP BY o.name
    ON CONFLICT DO NOTHING
    RETURNING p.generation
$$;

-- Ask for the generation that is ready to be made live. Null if none is.
CREATE FUNCTION request_promotion(projection text) RETURNS integer
LANGUAGE sql AS $$
    UPDATE projections AS p SET wanted = 'promote'
    WHERE p.name = projection AND p.status = 'ready'
    RETURNING p.generation
$$;

-- Ask for the rebuild under way to be discarded. Null if none is.
CREATE FUNCTION request_discard(projection text) RETURNS integer
LANGUAGE sql AS $$
    UPDATE projections AS p SET wanted = 'discard'
    WHERE p.name = projection AND p.status IN ('building', 'catching-up', 'ready', 'failed')
    RETURNING p.generation
$$;

-- Ask for the newest retired generation to be made live again. Null if none is kept.
CREATE FUNCTION request_rollback(projection text) RETURNS integer
LANGUAGE sql AS $$
    UPDATE projections AS p
    SET status = 'catching-up', wanted = 'promote', ready_at = NULL, diff = NULL, error = NULL
    WHERE p.name = projection AND p.generation = (
        SELECT o.generation FROM projections AS o
        WHERE o.name = projection AND o.status = 'retired'
        ORDER BY o.retired_at DESC
        LIMIT 1
    )
    RETURNING p.generation
$$;

DO $$
DECLARE
    function regprocedure;
BEGIN
    -- These run as the owner of the log, whoever calls them: nothing that they name may be another's.
    FOR function IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = current_schema()::regnamespace AND p.proname IN (
            'append_events', 'make_partitions', 'lock_head',
            'request_rebuild', 'request_promotion', 'request_discard', 'request_rollback'
        )
    LOOP
        EXECUTE format(
            'ALTER FUNCTION %s SECURITY DEFINER SET search_path = %I, pg_temp', function, current_schema()
        );
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
    -- The views of the projections by their plain names, for whoever connects to this database.
    IF (SELECT pg_has_role(d.datdba, 'USAGE') FROM pg_database AS d WHERE d.datname = current_database()) THEN
        EXECUTE format(
            'ALTER DATABASE %I SET search_path = %s, projected', current_database(),
            coalesce(
                (
                    SELECT substr(setting, 13) FROM pg_db_role_setting AS s, unnest(s.setconfig) AS setting
                    WHERE s.setrole = 0 AND setting LIKE 'search\_path=%'
                        AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                ),
                '"$user", public'
            )
        );
    END IF;
END
$$;
