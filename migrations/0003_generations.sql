-- Generations: a projection is folded again beside its live copy, and then switched.

ALTER TABLE projections DROP CONSTRAINT projections_status_check;
ALTER TABLE projections ADD CONSTRAINT projections_status_check
    CHECK (status IN ('building', 'catching-up', 'ready', 'live', 'retired', 'failed'));

ALTER TABLE projections
    ADD COLUMN fingerprints text[] NOT NULL DEFAULT '{}',
    ADD COLUMN failing bigint NOT NULL DEFAULT 0 CHECK (failing >= 0),
    ADD COLUMN wanted text CHECK (wanted IN ('promote', 'discard')),
    ADD COLUMN target bigint,
    ADD COLUMN built bigint NOT NULL DEFAULT 0,
    ADD COLUMN ready_at timestamptz,
    ADD COLUMN retired_at timestamptz,
    ADD COLUMN diff bytea;

-- Nobody wrote down which code folded these.
UPDATE projections SET fingerprints = '{unknown}' WHERE checkpoint > 0;

CREATE UNIQUE INDEX projections_one_rebuild ON projections (name)
WHERE status IN ('building', 'catching-up', 'ready', 'failed');
