-- The lasting layout of the log: partitions, narrow rows, a narrow index by stream, salts; and appends that refuse a server
-- which is behind, does not keep what it commits, or has changed its timeline.
--
-- All in one transaction: killed half-way, nothing has happened but for disk space. Until it ends it needs room for the
-- log a second time, and for as much of write-ahead log. Event by event everything stays what it was, headers included:
-- what they held when they came cannot be told from today's settings.

DROP FUNCTION append_events(uuid[], text[], text[], text[], text[], text[], timestamptz[], bytea[], bytea[]);

ALTER TABLE log_head
    ADD COLUMN timeline integer,
    ADD COLUMN acceptance integer NOT NULL DEFAULT 1,
    ADD COLUMN partitioned bigint NOT NULL DEFAULT 0,
    ADD COLUMN partition_size bigint NOT NULL DEFAULT 5000000 CHECK (partition_size > 0);

ALTER TABLE events RENAME TO events_before;

-- Indexes and constraints free their names too.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT conname FROM pg_constraint WHERE conrelid = 'events_before'::regclass LOOP
        EXECUTE format('ALTER TABLE events_before RENAME CONSTRAINT %I TO %I', name, name || '_before');
    END LOOP;
END
$$;

ALTER INDEX events_position RENAME TO events_before_position;

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

UPDATE log_head SET timeline = current_timeline() WHERE only_row;

ALTER TABLE log_head ALTER COLUMN timeline SET NOT NULL;

INSERT INTO timelines (acceptance, timeline, position) SELECT 1, current_timeline(), position FROM log_head;

-- One to fill, and one ahead.
SELECT make_partitions((position / partition_size + 2) * partition_size) FROM log_head;

-- schema.py tells the log how far it is.
DO $$
DECLARE
    most CONSTANT bigint := 20000;
    head bigint;
    done bigint := 0;
BEGIN
    SELECT position INTO head FROM log_head;
    WHILE done < head LOOP
        RAISE INFO 'progress % %', done, head;
        INSERT INTO events (
            position, received_at, recorded_at, event_id, provider, topic, merchant_id, program_id, stream,
            headers_salt, body_salt, headers, body
        )
        SELECT
            position, received_at, recorded_at, event_id, provider, topic, merchant_id, program_id, stream,
            uuid_send(gen_random_uuid()), uuid_send(gen_random_uuid()), headers, body
        FROM events_before
        WHERE position > done AND position <= done + most
        ORDER BY position;
        done := least(done + most, head);
    END LOOP;
    IF (SELECT count(*) FROM events WHERE position > 0 AND position <= head) <> head THEN
        RAISE EXCEPTION 'the log holds % events up to position %', (SELECT count(*) FROM events_before), head;
    END IF;
    RAISE INFO 'progress % %', head, head;
END
$$;

DROP TABLE events_before;

CREATE TRIGGER refuse_change
BEFORE UPDATE OR DELETE OR TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER refuse_change
BEFORE UPDATE OR DELETE OR TRUNCATE ON timelines
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

ALTER TABLE events ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE timelines ENABLE ALWAYS TRIGGER refuse_change;
