-- record_rejections --
-- Put rejections on record; a repeat raises the count and shows its newest circumstances.
INSERT INTO rejections (
    digest, provider, cause, problem, address, headers, body, size, first_at, last_at, count
)
SELECT digest, provider, cause, problem, address, headers, body, size, at, at, count
FROM unnest(
    $1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::bigint[],
    $9::timestamptz[], $10::bigint[]
) AS new (digest, provider, cause, problem, address, headers, body, size, at, count)
ORDER BY digest
ON CONFLICT (digest) DO UPDATE
SET count = rejections.count + excluded.count, last_at = greatest(rejections.last_at, excluded.last_at),
    problem = excluded.problem, address = excluded.address, headers = excluded.headers,
    -- It was refused again since: what became of it before says nothing of that.
    retried_at = NULL, position = NULL

-- prune_rejections --
-- Keep the $1 rejections that were seen last.
DELETE FROM rejections
WHERE id IN (SELECT id FROM rejections ORDER BY last_at DESC, id DESC OFFSET $1)

-- list_rejections --
-- The newest rejections below the id $1, without headers and bodies.
SELECT id, provider, cause, problem, address, size, first_at, last_at, count, retried_at, position
FROM rejections
WHERE id < $1
ORDER BY id DESC
LIMIT $2

-- read_rejection --
-- One rejection with what is on record of the request.
SELECT
    id, provider, cause, problem, address, size, first_at, last_at, count, retried_at, position, trusted,
    headers, body
FROM rejections
WHERE id = $1

-- claim_rejection --
-- Reserve a rejection for another try; a claim whose holder died ends after a minute.
UPDATE rejections
SET retried_at = clock_timestamp()
WHERE id = $1 AND position IS NULL
    AND (retried_at IS NULL OR retried_at < clock_timestamp() - interval '1 minute')
RETURNING id

-- trust_rejection --
-- Vouch for a rejection: whoever can write here may.
UPDATE rejections SET trusted = true WHERE id = $1 RETURNING id

-- finish_rejection --
-- Record where in the log a claimed rejection went; null gives it back.
UPDATE rejections
SET position = $2, retried_at = CASE WHEN $2::bigint IS NULL THEN NULL ELSE retried_at END
WHERE id = $1
