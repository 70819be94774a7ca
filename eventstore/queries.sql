-- append --
-- Append one batch of deliveries; give back the position before its first and the time on record. Names come joined by
-- U+001E; U+001F stands for null.
SELECT base, recorded_at
FROM append_events(
    $1,
    string_to_array($2, U&'\001E'),
    string_to_array($3, U&'\001E'),
    string_to_array($4, U&'\001E'),
    string_to_array($5, U&'\001E', U&'\001F'),
    string_to_array($6, U&'\001E'),
    $7, $8, $9
)

-- plan_once --
-- For a session that appends: no plan depends on the values, and to plan an append takes longer than to carry a small
-- one out.
SET plan_cache_mode = force_generic_plan

-- lock_head --
-- Wait for every append under way, and keep others out until this transaction ends.
SELECT position FROM log_head FOR UPDATE

-- this_session --
-- How Postgres knows this session: a pid alone may be somebody else's by now.
SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()

-- end_session --
-- End a session, if it is still there; false if it has not ended within five seconds.
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2

-- find_appended --
-- Which of these event ids reached the log after position $2: the answer to a lost COMMIT. By their streams, since the
-- head's lock is held meanwhile, and much may have come since $2.
SELECT event_id, position, recorded_at
FROM events
WHERE stream = ANY($3::text[]) AND position > $2 AND event_id = ANY($1::uuid[])

-- read_head --
-- The newest position.
SELECT position FROM log_head

-- check_head --
-- The newest position by the head and by the events themselves: they must agree.
SELECT h.position AS head, coalesce((SELECT max(position) FROM events), 0) AS newest FROM log_head AS h

-- read_tail --
-- What follows $1 without a gap, at most up to $1 + $2: the events of the topics in $3 ("provider topic"; null: all) and
-- the last one, whatever it is; how many of the others there are; no more than have $4 bytes of body before them.
WITH found AS (
    SELECT
        position, octet_length(body) AS size, $3::text[] IS NULL OR provider || ' ' || topic = ANY($3) AS handled
    FROM events
    WHERE position > $1 AND position <= $1 + $2
), numbered AS (
    SELECT
        position, handled, row_number() OVER in_order AS nth,
        sum(size) FILTER (WHERE handled) OVER in_order - size AS before
    FROM found
    WINDOW in_order AS (ORDER BY position)
), stretch AS (
    SELECT max(position) AS last, count(*) FILTER (WHERE NOT handled) AS ignored
    FROM numbered
    WHERE position = $1 + nth AND (before IS NULL OR before < $4)
)
SELECT
    e.position, e.event_id, e.provider, e.topic, e.merchant_id, e.program_id, e.stream, e.received_at, e.recorded_at,
    e.body, h.handled, s.ignored
FROM stretch AS s, events AS e, LATERAL (
    SELECT $3::text[] IS NULL OR e.provider || ' ' || e.topic = ANY($3) AS handled
) AS h
WHERE e.position > $1 AND e.position <= s.last AND (h.handled OR e.position = s.last)
ORDER BY e.position

-- list_events --
-- Events after $1, at most up to $1 + $2, without their bodies.
SELECT
    position, event_id, provider, topic, merchant_id, program_id, stream, received_at, recorded_at,
    octet_length(body) AS size
FROM events
WHERE position > $1 AND position <= $1 + $2
ORDER BY position

-- read_event --
-- One event whole.
SELECT
    position, event_id, provider, topic, merchant_id, program_id, stream, received_at, recorded_at, body, headers
FROM events
WHERE position = $1

-- read_stream --
-- The history of one stream after $2: at most $3 events, and no more than have $4 bytes of body before them.
SELECT
    position, event_id, provider, topic, merchant_id, program_id, stream, received_at, recorded_at, body
FROM (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY position) - octet_length(body) AS before
    FROM (SELECT * FROM events WHERE stream = $1 AND position > $2 ORDER BY position LIMIT $3) AS page
) AS history
WHERE before < $4
ORDER BY position

-- find_in_stream --
-- Where in its stream an event is, if it is.
SELECT position FROM events WHERE stream = $1 AND event_id = $2

-- be_durable --
-- For this session: a commit waits for the disk, even if the role or the database is set to hurry.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'

-- be_quick --
-- For a session that only writes what can be folded again: a commit need not wait for the disk, and no plan depends on
-- the values; to plan a fold takes longer than to carry a small one out. A plan that is kept since a table was empty must
-- not read the whole of it once it is large.
SET synchronous_commit = off;
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off

-- fsync --
-- Whether the server itself waits for the disk.
SELECT current_setting('fsync')

-- register_projection --
-- Enter the first generation of a projection, once.
INSERT INTO projections (name, generation, status, version)
SELECT $1, 1, 'live', $2
WHERE NOT EXISTS (SELECT FROM projections WHERE name = $1)
ON CONFLICT DO NOTHING

-- live_generation --
-- Where the live generation of a projection stands.
SELECT generation, checkpoint FROM projections WHERE name = $1 AND status = 'live'

-- where_it_stands --
-- Where a generation stands, and how many events in a row it could not fold before that.
SELECT checkpoint, failing FROM projections WHERE name = $1 AND generation = $2

-- note_fingerprint --
-- Write down which code folds a generation, before it does.
UPDATE projections SET fingerprints = array_append(fingerprints, $3)
WHERE name = $1 AND generation = $2 AND NOT $3 = ANY(fingerprints)

-- list_generations --
-- The generations of the projection $1, or of all if that is null, beside the head, in one snapshot.
SELECT
    p.*, h.position AS head, h.position - p.checkpoint AS lag,
    p.status = 'live' AND EXISTS (
        SELECT FROM events AS e
        WHERE e.position = p.checkpoint + 1 AND e.recorded_at < clock_timestamp() - interval '30 s'
    ) AS stuck,
    extract(epoch FROM coalesce(p.ready_at, clock_timestamp()) - p.created_at)::float8 AS seconds
FROM projections AS p, log_head AS h
WHERE $1::text IS NULL OR p.name = $1
ORDER BY p.name, p.generation

-- quarantined_streams --
-- Streams of a projection's live generation that end in /$2 and of which something is in quarantine.
SELECT DISTINCT q.stream
FROM quarantine AS q
JOIN projections AS p ON p.name = q.projection AND p.generation = q.generation AND p.status = 'live'
WHERE q.projection = $1 AND right(q.stream, length($2) + 1) = '/' || $2
ORDER BY q.stream

-- quarantined_positions --
-- What of this stream is in quarantine in a projection's live generation, and why.
SELECT q.position, q.error
FROM quarantine AS q
JOIN projections AS p ON p.name = q.projection AND p.generation = q.generation AND p.status = 'live'
WHERE q.projection = $1 AND q.stream = $2

-- list_quarantine --
-- What of a projection's live generation is in quarantine, after $2.
SELECT q.position, q.stream, e.topic, q.error, q.quarantined_at
FROM quarantine AS q
JOIN projections AS p ON p.name = q.projection AND p.generation = q.generation AND p.status = 'live'
JOIN events AS e ON e.stream = q.stream AND e.position = q.position
WHERE q.projection = $1 AND q.position > $2
ORDER BY q.position
LIMIT $3

-- note_error --
-- Tell everybody what holds a projection up, or that nothing does any more.
UPDATE projections SET error = $3 WHERE name = $1 AND generation = $2 AND error IS DISTINCT FROM $3

-- notify_head --
-- Wake the readers of other processes.
SELECT pg_notify($1, $2)

-- try_to_lead --
-- Become the one session that projects, if nobody is.
SELECT pg_try_advisory_lock(hashtext('loopledger projector'))

-- lock_schema --
-- Let one server at a time set the schema up; others wait.
SELECT pg_advisory_xact_lock(hashtext('loopledger schema'))

-- schema_version --
-- The newest migration applied; null on a database that has never held Loopledger.
SELECT max(version) FROM schema_versions

-- has_schema --
-- Whether this database holds Loopledger already.
SELECT to_regclass('schema_versions') IS NOT NULL

-- record_version --
-- Enter a migration as applied.
INSERT INTO schema_versions (version) VALUES ($1)

-- record_rejections --
-- Put rejections on record; a repeat raises the count and shows its newest circumstances.
INSERT INTO rejections (
    fingerprint, provider, cause, problem, address, headers, body, size, first_at, last_at, count
)
SELECT fingerprint, provider, cause, problem, address, headers, body, size, at, at, count
FROM unnest(
    $1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], $8::bigint[],
    $9::timestamptz[], $10::bigint[]
) AS new (fingerprint, provider, cause, problem, address, headers, body, size, at, count)
ORDER BY fingerprint
ON CONFLICT (fingerprint) DO UPDATE
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
-- One rejection with what there is of the request.
SELECT
    id, provider, cause, problem, address, size, first_at, last_at, count, retried_at, position, trusted,
    headers, body
FROM rejections
WHERE id = $1

-- claim_rejection --
-- Take a rejection in hand; who died with one in hand has lost it after a minute.
UPDATE rejections
SET retried_at = clock_timestamp()
WHERE id = $1 AND position IS NULL
    AND (retried_at IS NULL OR retried_at < clock_timestamp() - interval '1 minute')
RETURNING id

-- trust_rejection --
-- Vouch for a rejection: whoever can write here may.
UPDATE rejections SET trusted = true WHERE id = $1 RETURNING id

-- settle_rejection --
-- Say where a rejection went; null gives it back.
UPDATE rejections
SET position = $2, retried_at = CASE WHEN $2::bigint IS NULL THEN NULL ELSE retried_at END
WHERE id = $1
