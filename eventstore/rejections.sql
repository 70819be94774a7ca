-- commit_without_waiting --
-- What was refused may be lost in a crash; no delivery is to wait while the disk writes it.
SET LOCAL synchronous_commit = off

-- record_rejections --
-- Put rejections on record; a repeat raises the count and shows its newest circumstances.
INSERT INTO rejections (
    digest, provider, cause, problem, address, headers, body, size, first_at, last_at, count, verified
)
SELECT digest, provider, cause, problem, address, headers, body, size, at, at, count, verified
FROM unnest(
    $1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::bigint[],
    $9::timestamptz[], $10::bigint[], $11::boolean[]
) AS new (digest, provider, cause, problem, address, headers, body, size, at, count, verified)
ORDER BY digest
ON CONFLICT (digest) DO UPDATE
SET count = rejections.count + excluded.count, last_at = greatest(rejections.last_at, excluded.last_at),
    problem = excluded.problem, address = excluded.address, headers = excluded.headers, size = excluded.size,
    -- It was refused again since: what became of it before says nothing of that.
    retried_at = NULL, position = NULL

-- prune_rejections --
-- Keep of each provider the rejections that were seen last: $1 of verified senders, with $2 bytes at most, and $3 of
-- strangers.
DELETE FROM rejections
WHERE id IN (
    SELECT ranked.id
    FROM (
        SELECT id, verified, row_number() OVER seen_last AS rank,
            sum(octet_length(headers) + octet_length(body)) OVER seen_last AS bytes
        FROM rejections
        WINDOW seen_last AS (PARTITION BY provider, verified ORDER BY last_at DESC, id DESC)
    ) AS ranked
    WHERE CASE WHEN ranked.verified THEN ranked.rank > $1 OR ranked.bytes > $2 ELSE ranked.rank > $3 END
)

-- read_rejection --
-- One rejection with what is on record of the request, and a digest of that.
SELECT
    id, provider, cause, problem, address, size, first_at, last_at, count, retried_at, position, verified,
    encode(sha256(sha256(headers) || sha256(body)), 'hex') AS digest,
    coalesce(trusted = sha256(sha256(headers) || sha256(body)), false) AS trusted, headers, body
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
-- Vouch for a rejection as it is, if what is on record of it has the digest $2: whoever can write here may.
UPDATE rejections
SET trusted = sha256(sha256(headers) || sha256(body))
WHERE id = $1 AND encode(sha256(sha256(headers) || sha256(body)), 'hex') = $2
RETURNING id

-- finish_rejection --
-- Record where in the log a claimed rejection went; null gives it back.
UPDATE rejections
SET position = $2, retried_at = CASE WHEN $2::bigint IS NULL THEN NULL ELSE retried_at END
WHERE id = $1
