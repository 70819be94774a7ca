-- list_states --
-- States of a projection's live generation, as a listing makes rows, conditions and an order of them.
SELECT {item} FROM {table} WHERE {conditions} ORDER BY {order} {at_most}

-- generation_of --
-- The live generation of a projection, as text, beside a state of it.
(SELECT generation::text FROM projections WHERE name = '{name}' AND status = 'live')

-- list_events --
-- Events after position $1 up to $2.
SELECT {item} FROM events WHERE position > $1 AND position <= $2 AND {conditions} ORDER BY {order} {at_most}

-- read_complete --
-- Up to which position no event is missing: where the log is distributed ($1), a machine may show one later than the head
-- does, but not later than one that was folded.
SELECT least(
    h.position, s.hole - 1,
    CASE WHEN $1 THEN (SELECT coalesce(max(p.checkpoint), 0) FROM projections AS p) END
)
FROM log_head AS h CROSS JOIN log_scan AS s
WHERE h.only_row AND s.only_row

-- plan_for_values --
-- For this transaction: plan each statement for the values that it is given.
SET LOCAL plan_cache_mode = force_custom_plan

-- list_quarantine --
-- Events in quarantine in the live generation of the projection $1.
SELECT {item}
FROM quarantine AS q
JOIN projections AS p ON p.name = q.projection AND p.generation = q.generation AND p.status = 'live'
JOIN events AS e ON e.position = q.position
WHERE q.projection = $1 AND {conditions}
ORDER BY {order}
{at_most}

-- list_rejections --
-- Requests that were refused, without headers and bodies.
SELECT {item} FROM rejections WHERE {conditions} ORDER BY {order} {at_most}

-- list_generations --
-- The generations of all projections beside the head; $1 are the fingerprints of this process, by projection. An event that
-- is missing has waited since the checkpoint moved last.
SELECT {item}
FROM (
    SELECT
        p.*, h.position AS head, h.position - p.checkpoint AS lag,
        p.status = 'live' AND p.checkpoint < h.position
            AND coalesce(following.recorded_at, p.updated_at) < clock_timestamp() - interval '30 s' AS stuck,
        coalesce(NOT p.fingerprints <@ ARRAY[$1::text::jsonb ->> p.name], false) AS stale
    FROM projections AS p
    CROSS JOIN log_head AS h
    LEFT JOIN (
        SELECT w.name, w.generation, e.recorded_at
        FROM projections AS w
        JOIN events AS e ON e.position = w.checkpoint + 1
        WHERE w.status = 'live'
    ) AS following ON following.name = p.name AND following.generation = p.generation
) AS generations
WHERE {conditions}
ORDER BY {order}
{at_most}

-- history_status --
-- The live generation of the projection $1, its checkpoint, and whether it folded events in the stream $2 that are after
-- position $3 and on record in others.
SELECT p.generation, p.checkpoint, count(r.position) > 0 AS is_refiled
FROM projections AS p
LEFT JOIN refiled AS r
    ON r.projection = p.name AND r.generation = p.generation AND r.refiled_to = $2 AND r.position > $3
WHERE p.name = $1 AND p.status = 'live'
GROUP BY p.generation, p.checkpoint

-- whole_list --
-- A list, without pages, as COPY writes it.
SELECT {columns} FROM ({list}) AS list

-- first_recorded --
-- The first position that was recorded at the time $1 or later, or will be.
SELECT first_recorded($1)

-- find_other_timeline --
-- The timeline of this server and the accepted one, if they differ. A replica has none of its own.
SELECT current_timeline() AS now, timeline AS accepted
FROM log_head
WHERE only_row AND NOT pg_is_in_recovery() AND timeline <> current_timeline()

-- is_read_only --
-- Whether nothing can be written here: a replica, or a server that is set so.
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'

-- read_log_end --
-- The newest position.
SELECT position FROM log_head WHERE only_row

-- find_clock_ahead --
-- When the newest event was recorded, if that is more than $1 seconds from now.
SELECT recorded_at FROM log_head WHERE only_row AND recorded_at > clock_timestamp() + make_interval(secs => $1)

-- read_hole --
-- The first position of the log that is known to hold no event; null if all do, as far as it was looked through.
SELECT hole FROM log_scan WHERE only_row

-- find_not_set_up --
-- Which of the projections in $1 have no live generation, or no view that shows it.
SELECT known.name
FROM unnest($1::text[]) AS known (name)
LEFT JOIN projections AS p ON p.name = known.name AND p.status = 'live'
WHERE p.name IS NULL OR to_regclass('projected.' || known.name) IS NULL

-- find_held_up --
-- Live generations that an error holds up, or whose next event has waited for more than 30 s, and for how long.
SELECT
    p.name, p.error, p.checkpoint + 1 AS position,
    extract(epoch FROM clock_timestamp() - coalesce(following.recorded_at, p.updated_at))::float8 AS seconds
FROM projections AS p
CROSS JOIN log_head AS h
LEFT JOIN (
    SELECT w.name, w.generation, e.recorded_at
    FROM projections AS w
    JOIN events AS e ON e.position = w.checkpoint + 1
    WHERE w.status = 'live'
) AS following ON following.name = p.name AND following.generation = p.generation
WHERE p.status = 'live' AND (
    p.error IS NOT NULL OR (
        p.checkpoint < h.position
        AND coalesce(following.recorded_at, p.updated_at) < clock_timestamp() - interval '30 s'
    )
)
ORDER BY p.name

-- read_log_status --
-- The newest position and when it was recorded, the version of the server, and the bytes of the database.
SELECT
    position, CASE WHEN position > 0 THEN recorded_at END AS recorded_at,
    current_setting('server_version') AS server_version, pg_database_size(current_database()) AS database_bytes
FROM log_head
WHERE only_row

-- find_waiting --
-- How long the oldest event has waited that a live generation has yet to fold. One that is missing has waited since the
-- checkpoint moved last.
SELECT
    p.name,
    greatest(0, extract(epoch FROM clock_timestamp() - coalesce(following.recorded_at, p.updated_at)))::float8 AS seconds
FROM projections AS p
CROSS JOIN log_head AS h
LEFT JOIN (
    SELECT w.name, w.generation, e.recorded_at
    FROM projections AS w
    JOIN events AS e ON e.position = w.checkpoint + 1
    WHERE w.status = 'live'
) AS following ON following.name = p.name AND following.generation = p.generation
WHERE p.status = 'live' AND p.checkpoint < h.position

-- last_received --
-- When the newest event of each provider was received, of those after position $1 up to $2.
SELECT provider, max(received_at) AS received_at
FROM events
WHERE position > $1 AND position <= $2
GROUP BY provider

-- read_past_events --
-- Events after $1 up to $2, at most $3, as the listing of events makes conditions.
SELECT
    position, event_id, provider, topic, merchant_id, program_id, stream, received_at, recorded_at,
    octet_length(body) AS size
FROM events
WHERE position > $1 AND position <= $2 AND {conditions}
ORDER BY position
LIMIT $3

-- read_live_place --
-- Which generation of a projection is live, and how far it is.
SELECT generation, checkpoint FROM projections WHERE name = $1 AND status = 'live'

-- read_new_states --
-- What changed after $1 up to $2, by what changed it last, at most $3 states; and which of the numbered questions each
-- answers.
SELECT position, stream, {items} AS items, array_remove({answered}, NULL) AS answered
FROM {table}
WHERE position > $1 AND position <= $2
ORDER BY position
LIMIT $3

-- read_past_states --
-- What changed after $1 up to $2, by what changed it last, at most $3 states.
SELECT position, stream, {item} AS item
FROM {table}
WHERE position > $1 AND position <= $2 AND {conditions}
ORDER BY position
LIMIT $3
