-- append --
-- Append one batch of deliveries; give back the position before its first, the time on record, and how many times a
-- timeline was accepted. $1 is how far the log is known to have reached. Names come joined by U+001E; U+001F stands for
-- null.
SELECT base, recorded_at, acceptance
FROM append_events(
    $1, $2,
    string_to_array($3, U&'\001E'),
    string_to_array($4, U&'\001E'),
    string_to_array($5, U&'\001E'),
    string_to_array($6, U&'\001E', U&'\001F'),
    string_to_array($7, U&'\001E'),
    $8, $9, $10, $11
)

-- lock_head --
-- Wait for every append under way, and keep others out until this transaction ends.
SELECT position, timeline, acceptance, current_timeline() AS now FROM lock_head()

-- name_session --
-- Give this session the name of its writer: no other process has sessions of this name.
SELECT set_config('application_name', $1, false)

-- end_sessions --
-- End the other sessions of a writer, if there are any; false if one has not ended within five seconds.
SELECT bool_and(pg_terminate_backend(pid, 5000))
FROM pg_stat_activity
WHERE application_name = $1 AND pid <> pg_backend_pid()

-- find_appended --
-- Which of these event ids reached the log after position $2, when the outcome of a COMMIT is unknown. By their streams,
-- since the head's lock is held meanwhile, and much may have come since $2.
SELECT event_id, position, recorded_at
FROM events
WHERE hashtextextended(stream, 0) = ANY(ARRAY(SELECT hashtextextended(name, 0) FROM unnest($3::text[]) AS name))
    AND stream = ANY($3::text[]) AND position > $2 AND event_id = ANY($1::uuid[])

-- read_head --
-- The newest position.
SELECT position FROM log_head WHERE only_row

-- watch_head --
-- The newest position, and how many times a timeline was accepted: only then may the position have gone back.
SELECT position, acceptance FROM log_head WHERE only_row

-- find_clock_ahead --
-- When the newest event was recorded, if that is more than $1 seconds from now. Whatever is recorded until then gets the
-- same time.
SELECT recorded_at FROM log_head WHERE only_row AND recorded_at > clock_timestamp() + make_interval(secs => $1)

-- identify_log --
-- Which log this is: the same in every physical copy of its database, and no other's.
SELECT s.system_identifier, d.oid, 'log_head'::regclass::oid
FROM pg_control_system() AS s, pg_database AS d
WHERE d.datname = current_database()

-- read_head_at --
-- The newest position, the time by the server's clock, and how many times a timeline was accepted.
SELECT position, clock_timestamp(), acceptance FROM log_head WHERE only_row

-- accepted_since --
-- The lowest position at which the log went on when a timeline was accepted after $1, or after the one of number $2; null
-- if none was. A clock may have been set back, and an older copy counts acceptances anew.
SELECT min(position) FROM timelines WHERE accepted_at > $1 OR acceptance > $2

-- list_acceptances --
-- Which timelines were accepted since the one of number $1, and where the log ended then.
SELECT acceptance, timeline, position FROM timelines WHERE acceptance > $1 ORDER BY acceptance

-- read_timeline --
-- The timeline of this server, the one that is accepted, and the newest position.
SELECT current_timeline(), timeline, position FROM log_head WHERE only_row

-- list_timelines --
-- Every timeline that was accepted, the newest first.
SELECT acceptance, timeline, position, accepted_at FROM timelines ORDER BY acceptance DESC

-- accept_timeline --
-- Enter the timeline of this server as accepted, from where the log ends; the caller holds the lock of the head.
INSERT INTO timelines (acceptance, timeline, position)
SELECT acceptance + 1, current_timeline(), position FROM log_head WHERE only_row
RETURNING acceptance, timeline, position, accepted_at

-- move_to_timeline --
-- Have the log grow on the timeline of this server, which was entered as accepted.
UPDATE log_head SET timeline = current_timeline(), acceptance = acceptance + 1 WHERE only_row

-- partition_is_due --
-- Whether less than one whole partition is empty.
SELECT partitioned < position + partition_size FROM log_head WHERE only_row

-- limit_lock_wait --
-- For this transaction: give up soon where another holds a lock.
SET LOCAL lock_timeout = '2s'

-- make_partitions_ahead --
-- Make the partition after the one that is being filled; gives back how far there are partitions.
WITH made AS MATERIALIZED (
    SELECT make_partitions(position + partition_size), position + partition_size AS through
    FROM log_head WHERE only_row
)
SELECT through FROM made

-- full_partitions --
-- The partitions of which every position is on record, and that no vacuum has seen whole.
SELECT c.oid::regclass::text
FROM log_head AS h, pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE h.only_row AND i.inhparent = 'events'::regclass AND c.relallvisible < greatest(c.relpages, 1)
    AND (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''?(\d+)''?\)'))[1]::bigint <= h.position + 1
ORDER BY c.relname

-- vacuum_partition --
-- Vacuum and freeze a partition, and gather its statistics: it will not change any more.
VACUUM (FREEZE, ANALYZE) {table}

-- read_slice --
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
), slice AS (
    SELECT max(position) AS last, count(*) FILTER (WHERE NOT handled) AS ignored
    FROM numbered
    WHERE position = $1 + nth AND (before IS NULL OR before < $4)
)
SELECT
    e.position, e.event_id, e.provider, e.topic, e.merchant_id, e.program_id, e.stream, e.received_at, e.recorded_at,
    e.body, h.handled, s.ignored
FROM slice AS s, events AS e, LATERAL (
    SELECT $3::text[] IS NULL OR e.provider || ' ' || e.topic = ANY($3) AS handled
) AS h
WHERE e.position > $1 AND e.position <= $1 + $2 AND e.position <= s.last AND (h.handled OR e.position = s.last)
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
    FROM (
        SELECT * FROM events
        WHERE hashtextextended(stream, 0) = hashtextextended($1, 0) AND stream = $1 AND position > $2
        ORDER BY position
        LIMIT $3
    ) AS page
) AS history
WHERE before < $4
ORDER BY position

-- read_events --
-- The events at these positions, no more than have $2 bytes of body before them.
SELECT
    position, event_id, provider, topic, merchant_id, program_id, stream, received_at, recorded_at, body
FROM (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY position) - octet_length(body) AS before
    FROM events
    WHERE position = ANY($1::bigint[])
) AS found
WHERE before < $2
ORDER BY position

-- find_in_stream --
-- Where in its stream an event is, if it is.
SELECT position FROM events
WHERE hashtextextended(stream, 0) = hashtextextended($1, 0) AND stream = $1 AND event_id = $2

-- read_scan --
-- How far the log was looked through, the hole that was found, and the newest position.
SELECT s.position, s.hole, h.position AS head FROM log_scan AS s CROSS JOIN log_head AS h WHERE s.only_row AND h.only_row

-- record_scan --
-- Enter how far the log was looked through, and the hole that was found, or null.
UPDATE log_scan
SET position = $1, hole = $2, found_at = CASE WHEN $2::bigint IS NOT NULL THEN coalesce(found_at, clock_timestamp()) END
WHERE only_row

-- notify_head --
-- Wake the readers of other processes.
SELECT pg_notify($1, $2)
