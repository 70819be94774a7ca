-- Failures in a row are counted by provider and topic, over distinct streams. What was counted before is forgotten.

ALTER TABLE projections DROP CONSTRAINT projections_failing_check;

ALTER TABLE projections ALTER COLUMN failing DROP DEFAULT;

ALTER TABLE projections ALTER COLUMN failing TYPE jsonb USING '{}';

ALTER TABLE projections ALTER COLUMN failing SET DEFAULT '{}';
