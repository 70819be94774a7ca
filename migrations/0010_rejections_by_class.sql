-- Rejections of verified senders and of strangers apart, trust in exact bytes, and space given back. What has a body was
-- kept for another try, so it counts as of a verified sender. Trust that was given before is forgotten.

DROP INDEX rejections_last_at;

ALTER TABLE rejections ALTER COLUMN trusted DROP DEFAULT, ALTER COLUMN trusted DROP NOT NULL;

ALTER TABLE rejections
    ALTER COLUMN trusted TYPE bytea USING NULL,
    ADD COLUMN verified boolean NOT NULL DEFAULT false;

UPDATE rejections SET verified = octet_length(body) > 0;

ALTER TABLE rejections ALTER COLUMN verified DROP DEFAULT, ADD CHECK (verified OR octet_length(body) = 0);

ALTER TABLE rejections SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 500,
    toast.autovacuum_vacuum_cost_delay = 0
);
