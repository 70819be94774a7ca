-- checkpoint --
-- From here on the first change of every page goes to the write-ahead log as the whole page.
CHECKPOINT

-- wal_position --
-- How far the write-ahead log is written.
SELECT pg_current_wal_insert_lsn() - '0/0'

-- sizes --
-- Bytes of the log: in tables, in each kind of index, and of headers and bodies in the events themselves.
SELECT
    sum(pg_table_size(relid)) FILTER (WHERE isleaf),
    sum(pg_indexes_size(relid)) FILTER (WHERE isleaf),
    (SELECT sum(octet_length(headers)) FROM events),
    (SELECT sum(octet_length(body)) FROM events)
FROM pg_partition_tree('events')

-- fill_before --
-- Events 1 to $1 in the layout before migration 5, about as large as updates of gift cards, ten to a stream.
INSERT INTO events (
    position, event_id, provider, topic, merchant_id, program_id, stream, received_at, recorded_at, headers, body
)
SELECT
    n, gen_random_uuid(), 'loopz', 'gift-card.updated', 'm-' || n % 3, CASE WHEN n % 5 > 0 THEN 'p-1' END,
    'loopz/m-' || n % 3 || '/gift-card/' || md5((n / 10)::text)::uuid, now(), now(),
    convert_to(E'Host: 127.0.0.1\r\nX-Signature-256: sha256=' || repeat(md5(n::text), 8), 'UTF8'),
    convert_to('{"id": "' || repeat(md5(n::text), 11) || '"}', 'UTF8')
FROM generate_series(1, $1::bigint) AS n

-- fill_head_before --
-- The head stands where the events end.
UPDATE log_head SET position = $1, recorded_at = now()

-- digest --
-- All that an event says, of all events, in one hash.
SELECT md5(string_agg(
    md5(concat_ws(' ', position, event_id, provider, topic, merchant_id, coalesce(program_id, '~'), stream, received_at,
        recorded_at, encode(headers, 'hex'), encode(body, 'hex'))),
    '' ORDER BY position
))
FROM events

-- log_size --
-- Bytes of the log.
SELECT coalesce(
    (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('events')), pg_total_relation_size('events')
)
