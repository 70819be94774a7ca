-- What is permanent: the log and the registry of its projections. A projection's own tables are made by
-- eventstore/fold/generation.py, one set per generation. Postgres 15 or newer.
--
-- An existing database gets here by migrations/; a test holds the two ways together.

CREATE TABLE schema_versions (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The newest position, in one row. Whoever appends locks it first, and moves it, and holds its lock until commit: that
-- lock is what makes position order commit order, and leaves no hole behind a rollback.
CREATE TABLE log_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint NOT NULL CHECK (position >= 0),
    recorded_at timestamptz NOT NULL,
    -- The WAL timeline on which the log may grow, and how many times one was accepted.
    timeline integer NOT NULL,
    acceptance integer NOT NULL DEFAULT 1,
    -- Partitions of the log reach to here, and the next one will have so many positions.
    partitioned bigint NOT NULL DEFAULT 0,
    partition_size bigint NOT NULL DEFAULT 5000000 CHECK (partition_size > 0)
) WITH (fillfactor = 10);

-- The log. What has a fixed size comes first, so that nothing is lost to alignment. `body` and `headers` are bytes: jsonb
-- would refuse what providers may send, and lose key order, duplicate keys and number spelling, which an auditor wants.
-- web/header_block.py tells how `headers` are written. The salts are random: with one of them gone, a hash of the bytes
-- beside it says nothing about them any more.
CREATE TABLE events (
    -- Where the log is distributed over machines, every unique key has to hold `stream` as well.
    position bigint PRIMARY KEY CHECK (position > 0),
    received_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    provider text NOT NULL,
    topic text NOT NULL,
    merchant_id text NOT NULL,
    program_id text,
    stream text COLLATE "C" NOT NULL,
    headers_salt bytea,
    body_salt bytea,
    headers bytea NOT NULL,
    body bytea NOT NULL
) PARTITION BY RANGE (position);

-- A stream's history: a statement that reads one names this hash too. Names of streams are long, and come in no order.
CREATE INDEX events_stream ON events (hashtextextended(stream, 0), position);

-- Which blocks may hold events of a provider, a merchant, a programme or a topic: about a byte an event, and next to
-- nothing for an append. Blocks that were filled since are read until they are summarised, by whoever vacuums.
CREATE INDEX events_words ON events USING brin (
    provider text_bloom_ops, merchant_id text_bloom_ops (n_distinct_per_range = 600),
    program_id text_bloom_ops (n_distinct_per_range = 200), topic text_bloom_ops
) WITH (pages_per_range = 64, autosummarize = on);

CREATE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;

-- The WAL timeline that this server writes: it changes when a replica is promoted, or a backup restored.
CREATE FUNCTION current_timeline() RETURNS integer
LANGUAGE sql AS $$
    SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
$$;

-- Make partitions until they reach to `through`. Each is attached, not created in place: that would lock out readers.
CREATE FUNCTION make_partitions(through bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    head record;
    name text;
BEGIN
    LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT h.partitioned, h.partition_size INTO STRICT head FROM log_head AS h WHERE h.only_row FOR NO KEY UPDATE;
    WHILE head.partitioned < through LOOP
        name := format('events_%s', head.partitioned + 1);
        -- Rows come and never change. Freeze them when a vacuum first sees them, while they are in memory.
        EXECUTE format(
            'CREATE TABLE %I (LIKE events INCLUDING ALL) WITH (autovacuum_vacuum_insert_scale_factor = 0,'
            ' autovacuum_vacuum_insert_threshold = 500000, autovacuum_freeze_min_age = 0,'
            ' toast.autovacuum_vacuum_insert_scale_factor = 0, toast.autovacuum_vacuum_insert_threshold = 500000,'
            ' toast.autovacuum_freeze_min_age = 0)',
            name
        );
        -- The triggers of a statement on `events` do not watch one on a partition.
        EXECUTE format(
            'CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()',
            name
        );
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER refuse_change', name);
        EXECUTE format(
            'ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            name, head.partitioned + 1, head.partitioned + head.partition_size + 1
        );
        head.partitioned := head.partitioned + head.partition_size;
    END LOOP;
    UPDATE log_head AS h SET partitioned = head.partitioned WHERE h.only_row AND h.partitioned < head.partitioned;
END
$$;

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

-- Append one batch: one statement, one round trip. The event at index i (from 1) gets position base + i. `salts` are 32
-- bytes an event. Refused, before anything is written: LL001, a log that ends before `known_head`; LL002, a server that
-- does not wait for the disk; LL003, a timeline that nobody accepted.
CREATE FUNCTION append_events(
    known_head bigint,
    event_ids uuid[],
    providers text[],
    topics text[],
    merchant_ids text[],
    program_ids text[],
    streams text[],
    received_ats timestamptz[],
    header_blocks bytea[],
    bodies bytea[],
    salts bytea
) RETURNS TABLE (base bigint, recorded_at timestamptz, acceptance integer)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    head record;
BEGIN
    -- From the end of the index: under a long snapshot no old version of the row can be removed, and to look for the
    -- newest among all of them would take longer with each append.
    SELECT h.ctid AS place, h.* INTO head FROM log_head AS h ORDER BY h.only_row DESC LIMIT 1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the log has no head row' USING ERRCODE = 'LL000';
    ELSIF current_setting('fsync') <> 'on' OR current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'the server runs with fsync = %, synchronous_commit = %',
            current_setting('fsync'), current_setting('synchronous_commit') USING ERRCODE = 'LL002';
    ELSIF head.timeline <> ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer THEN
        RAISE EXCEPTION
            'the server is on timeline %, accepted is %; its log ends at position %, and is known to have reached %',
            current_timeline(), head.timeline, head.position, greatest(head.position, known_head)
            USING ERRCODE = 'LL003';
    ELSIF head.position < known_head THEN
        RAISE EXCEPTION 'the log ends at position %, and is known to have reached %', head.position, known_head
            USING ERRCODE = 'LL001';
    END IF;
    base := head.position;
    -- greatest(): a clock that is set back must not take recorded_at with it.
    recorded_at := greatest(head.recorded_at, clock_timestamp());
    acceptance := head.acceptance;
    IF base + cardinality(event_ids) > head.partitioned THEN
        -- Nobody has made them ahead.
        PERFORM make_partitions(base + cardinality(event_ids));
        SELECT h.ctid INTO head.place FROM log_head AS h ORDER BY h.only_row DESC LIMIT 1;
    END IF;
    UPDATE log_head AS h
    SET position = append_events.base + cardinality(event_ids), recorded_at = append_events.recorded_at
    WHERE h.ctid = head.place;
    IF NOT FOUND THEN
        -- It is locked, so it cannot have moved; but nothing may be inserted that the head does not count.
        RAISE EXCEPTION 'the head row is not where it was locked' USING ERRCODE = 'LL000';
    END IF;
    INSERT INTO events (
        position, received_at, recorded_at, event_id, provider, topic, merchant_id, program_id, stream,
        headers_salt, body_salt, headers, body
    )
    SELECT
        append_events.base + new.ordinality, new.received_at, append_events.recorded_at, new.event_id, new.provider,
        new.topic, new.merchant_id, new.program_id, new.stream,
        substr(salts, (32 * new.ordinality - 31)::integer, 16), substr(salts, (32 * new.ordinality - 15)::integer, 16),
        new.headers, new.body
    FROM unnest(
        event_ids, providers, topics, merchant_ids, program_ids, streams, received_ats, header_blocks, bodies
    ) WITH ORDINALITY AS new (
        event_id, provider, topic, merchant_id, program_id, stream, received_at, headers, body, ordinality
    );
    RETURN NEXT;
END
$$;

-- Which timelines the log has grown on: each accepted by an operator, but for the first, and where the log ended then.
CREATE TABLE timelines (
    acceptance integer PRIMARY KEY,
    timeline integer NOT NULL,
    position bigint NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO log_head (position, recorded_at, timeline) VALUES (0, '-infinity', current_timeline());

INSERT INTO timelines (acceptance, timeline, position) VALUES (1, current_timeline(), 0);

CREATE TRIGGER refuse_change
BEFORE UPDATE OR DELETE OR TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER refuse_change
BEFORE UPDATE OR DELETE OR TRUNCATE ON timelines
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER refuse_change
BEFORE INSERT OR DELETE OR TRUNCATE ON log_head
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The head only ever moves forward.
CREATE TRIGGER refuse_going_back
BEFORE UPDATE ON log_head
FOR EACH ROW
WHEN (NEW.position < OLD.position OR NEW.recorded_at < OLD.recorded_at)
EXECUTE FUNCTION refuse_change();

-- ALWAYS: they hold in a replication session too, where ordinary triggers sleep.
ALTER TABLE events ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE timelines ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE log_head ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE log_head ENABLE ALWAYS TRIGGER refuse_going_back;

-- One to fill, and one ahead.
SELECT make_partitions(2 * partition_size) FROM log_head;

-- The registry: one row per generation of a projection. Every event up to the checkpoint was folded, ignored or
-- quarantined, and the database itself holds the sum to it.
CREATE TABLE projections (
    name text NOT NULL,
    generation integer NOT NULL CHECK (generation > 0),
    status text NOT NULL CHECK (status IN ('building', 'catching-up', 'ready', 'live', 'retired', 'failed')),
    version integer NOT NULL,
    checkpoint bigint NOT NULL DEFAULT 0,
    folded bigint NOT NULL DEFAULT 0 CHECK (folded >= 0),
    ignored bigint NOT NULL DEFAULT 0 CHECK (ignored >= 0),
    quarantined bigint NOT NULL DEFAULT 0 CHECK (quarantined >= 0),
    -- What holds it up at the moment, for people; null if nothing does.
    error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The code that folded it: one, unless the code changed under it.
    fingerprints text[] NOT NULL DEFAULT '{}',
    -- By "provider topic": the streams of which events went to quarantine in a row, up to the checkpoint.
    failing jsonb NOT NULL DEFAULT '{}',
    -- What the process that rebuilds is asked to do.
    wanted text CHECK (wanted IN ('promote', 'discard')),
    -- The position up to which it is built, before it follows the log, and how much of that is done.
    target bigint,
    built bigint NOT NULL DEFAULT 0,
    ready_at timestamptz,
    -- When it was live last; null if it never was.
    retired_at timestamptz,
    -- How it differs from the live generation, as JSON.
    diff bytea,
    -- How many attempts at its build have begun, but for those that Postgres interrupted.
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- What its promotion waits for, for people; null if it waits for nothing.
    waiting text,
    PRIMARY KEY (name, generation),
    CONSTRAINT complete CHECK (folded + ignored + quarantined = checkpoint)
);

CREATE UNIQUE INDEX projections_one_live ON projections (name) WHERE status = 'live';

CREATE UNIQUE INDEX projections_one_rebuild ON projections (name)
WHERE status IN ('building', 'catching-up', 'ready', 'failed');

-- Which session projects. `term` counts how often that changed: whoever rebuilds writes only while the term is its own.
CREATE TABLE leadership (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    term bigint NOT NULL DEFAULT 0,
    pid integer,
    backend_start timestamptz,
    began_at timestamptz
);

INSERT INTO leadership DEFAULT VALUES;

-- How far the log was looked through for holes, which begins anew at its end; and the first position that holds no event.
CREATE TABLE log_scan (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint NOT NULL DEFAULT 0,
    hole bigint,
    found_at timestamptz
);

INSERT INTO log_scan DEFAULT VALUES;

-- Events that a projection could not fold, visible until a rebuild folds them.
CREATE TABLE quarantine (
    projection text NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    stream text NOT NULL,
    error text NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projection, generation, position),
    FOREIGN KEY (projection, generation) REFERENCES projections (name, generation) ON DELETE CASCADE
);

CREATE INDEX quarantine_stream ON quarantine (stream);

-- By merchant, whose id is the second part of the stream.
CREATE INDEX quarantine_merchant ON quarantine (projection, generation, split_part(stream, '/', 2), position);

-- Events that a generation folded in another stream than that on record: it read of what thing they are when they were
-- filed already.
CREATE TABLE refiled (
    projection text NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    stream text NOT NULL,
    refiled_to text COLLATE "C" NOT NULL,
    PRIMARY KEY (projection, generation, refiled_to, position),
    FOREIGN KEY (projection, generation) REFERENCES projections (name, generation) ON DELETE CASCADE
);

-- Requests that were refused, on record with their cause. A repeat raises the count. Bounded in number and bytes by who
-- writes it, and in dead rows by autovacuum, which comes by more often than elsewhere; no part of the log.
CREATE TABLE rejections (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same cause, provider, topic, tenant and body: a repeat. Of strangers: the same cause, provider and address.
    digest bytea NOT NULL UNIQUE,
    provider text NOT NULL,
    cause text NOT NULL,
    problem text NOT NULL,
    address text NOT NULL,
    headers bytea NOT NULL,
    -- The beginning of the body; whole if it has `size` bytes. None of strangers.
    body bytea NOT NULL,
    size bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    count bigint NOT NULL CHECK (count > 0),
    -- Somebody who may write to this database vouches for the headers and the body that have this digest: the credentials
    -- are not on record.
    trusted bytea,
    -- When it was tried again, and where it went then.
    retried_at timestamptz,
    position bigint,
    -- Whether its sender was verified; else it was a stranger.
    verified boolean NOT NULL,
    CHECK (verified OR octet_length(body) = 0)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 500,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- The keys of the API: who has one, for what, of which merchants (null: all), and until when. Of the key itself there is
-- its SHA-256 alone. A key that is revoked stays on record, so that one was made at all is never forgotten.
CREATE TABLE keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    scopes text[] NOT NULL CHECK (
        cardinality(scopes) > 0
        AND scopes <@ ARRAY['read', 'reveal', 'raw', 'find', 'operate', 'audit', 'metrics', 'admin']
    ),
    merchants text[] CHECK (cardinality(merchants) > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    -- What concerns the whole store is not for a key of some merchants.
    CHECK (merchants IS NULL OR NOT scopes && ARRAY['operate', 'audit', 'metrics', 'admin'])
);

CREATE UNIQUE INDEX keys_name ON keys (name) WHERE revoked_at IS NULL;

-- Least privilege: eventstore/postgres/postgres.sql says which role may do what (missing_privileges).

-- Tables and views of the projections; and what of all data a report may see.
CREATE SCHEMA projected;
CREATE SCHEMA masked;

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

-- Put a key on record, unless its name is taken or there are `most` keys already; none is returned then. So many that were
-- revoked are kept, too.
CREATE FUNCTION create_key(
    name text, digest bytea, scopes text[], merchants text[], expires_at timestamptz, most bigint
) RETURNS SETOF keys
LANGUAGE sql AS $$
    DELETE FROM keys AS k WHERE k.id IN (
        SELECT o.id FROM keys AS o WHERE o.revoked_at IS NOT NULL ORDER BY o.revoked_at DESC, o.id DESC OFFSET most
    );
    INSERT INTO keys AS k (name, digest, scopes, merchants, expires_at)
    SELECT $1, $2, $3, $4, $5
    WHERE (SELECT count(*) FROM keys AS o WHERE o.revoked_at IS NULL) < most
    ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
    RETURNING k.*
$$;

-- Revoke a key for good. None is returned if there is no such key.
CREATE FUNCTION revoke_key(id bigint) RETURNS SETOF keys
LANGUAGE sql AS $$
    UPDATE keys AS k SET revoked_at = coalesce(k.revoked_at, clock_timestamp()) WHERE k.id = $1 RETURNING k.*
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
            'request_rebuild', 'request_promotion', 'request_discard', 'request_rollback', 'create_key', 'revoke_key'
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
