-- What tells a repeat of a refused request is a digest; a fingerprint is of code.
ALTER TABLE rejections RENAME COLUMN fingerprint TO digest;
ALTER TABLE rejections RENAME CONSTRAINT rejections_fingerprint_key TO rejections_digest_key;
-- From Postgres 18 on, NOT NULL has a name too, after its column.
ALTER TABLE rejections ALTER COLUMN digest DROP NOT NULL;
ALTER TABLE rejections ALTER COLUMN digest SET NOT NULL;
