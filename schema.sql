-- What is permanent: the log and the registry of its projections. A projection's own tables are made by
-- eventstore/fold/generation.py, one set per generation. Postgres 15 or newer.
--
-- An existing database gets here by migrations/; a test holds the two ways together.

CREATE TABLE schema_versions (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The newest position, in one row. Whoever appends moves it first and holds its row lock until commit: that lock is
-- what makes position order commit order, and leaves no hole behind a rollback.
CREATE TABLE log_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint NOT NULL CHECK (position >= 0),
    recorded_at timestamptz NOT NULL
) WITH (fillfactor = 10);

INSERT INTO log_head (position, recorded_at) VALUES (0, '-infinity');

-- The log. `body` and `headers` are bytes: jsonb would refuse what providers may send, and lose key order,
-- duplicate keys and number spelling, which an auditor wants. `headers` are "Name: value" lines, ended by CR LF.
CREATE TABLE events (
    position bigint NOT NULL CHECK (position > 0),
    event_id uuid NOT NULL,
    provider text NOT NULL,
    topic text NOT NULL,
    merchant_id text NOT NULL,
    program_id text,
    stream text NOT NULL,
    received_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    headers bytea NOT NULL,
    body bytea NOT NULL,
    -- A stream's history. Every unique index holds `stream`, so that the table may be distributed by it.
    PRIMARY KEY (stream, position)
);

-- The tail.
CREATE INDEX events_position ON events (position);

-- Append one batch: one statement, one round trip. The event at index i (from 1) gets position base + i.
CREATE FUNCTION append_events(
    event_ids uuid[],
    providers text[],
    topics text[],
    merchant_ids text[],
    program_ids text[],
    streams text[],
    received_ats timestamptz[],
    header_blocks bytea[],
    bodies bytea[]
) RETURNS TABLE (base bigint, recorded_at timestamptz)
LANGUAGE sql AS $$
    WITH head AS (
        -- greatest(): a clock that is set back must not take recorded_at with it.
        UPDATE log_head AS h
        SET position = h.position + cardinality(event_ids),
            recorded_at = greatest(h.recorded_at, clock_timestamp())
        RETURNING h.position - cardinality(event_ids) AS base, h.recorded_at
    ), appended AS (
        INSERT INTO events (
            position, event_id, provider, topic, merchant_id, program_id, stream,
            received_at, recorded_at, headers, body
        )
        SELECT
            head.base + new.ordinality, new.event_id, new.provider, new.topic, new.merchant_id, new.program_id,
            new.stream, new.received_at, head.recorded_at, new.headers, new.body
        FROM head, unnest(
            event_ids, providers, topics, merchant_ids, program_ids, streams, received_ats, header_blocks, bodies
        ) WITH ORDINALITY AS new (
            event_id, provider, topic, merchant_id, program_id, stream, received_at, headers, body, ordinality
        )
    )
    SELECT head.base, head.recorded_at FROM head
$$;

CREATE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER refuse_change
BEFORE UPDATE OR DELETE OR TRUNCATE ON events
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
ALTER TABLE log_head ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE log_head ENABLE ALWAYS TRIGGER refuse_going_back;

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
    -- How many events in a row went to quarantine, up to the checkpoint.
    failing bigint NOT NULL DEFAULT 0 CHECK (failing >= 0),
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
    PRIMARY KEY (name, generation),
    CONSTRAINT complete CHECK (folded + ignored + quarantined = checkpoint)
);

CREATE UNIQUE INDEX projections_one_live ON projections (name) WHERE status = 'live';

CREATE UNIQUE INDEX projections_one_rebuild ON projections (name)
WHERE status IN ('building', 'catching-up', 'ready', 'failed');

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

-- Requests that were refused, on record with their cause. A repeat raises the count. Bounded in number and bytes by who
-- writes it; no part of the log.
CREATE TABLE rejections (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same cause, provider, topic, tenant and body: a repeat.
    digest bytea NOT NULL UNIQUE,
    provider text NOT NULL,
    cause text NOT NULL,
    problem text NOT NULL,
    address text NOT NULL,
    headers bytea NOT NULL,
    -- The beginning of the body; whole if it has `size` bytes.
    body bytea NOT NULL,
    size bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    count bigint NOT NULL CHECK (count > 0),
    -- Somebody who may write to this database vouches for it: its credentials are not on record.
    trusted boolean NOT NULL DEFAULT false,
    -- When it was tried again, and where it went then.
    retried_at timestamptz,
    position bigint
);

CREATE INDEX rejections_last_at ON rejections (last_at);
