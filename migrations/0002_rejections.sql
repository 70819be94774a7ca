-- Requests that were refused, on record with their cause. A repeat raises the count. Bounded in number and bytes by who
-- writes it; no part of the log.
CREATE TABLE rejections (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same cause, provider, topic, tenant and body: a repeat.
    fingerprint bytea NOT NULL UNIQUE,
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
