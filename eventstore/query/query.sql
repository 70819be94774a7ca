-- page --
-- One page of a list, in the order of the streams.
SELECT stream, position, {names} FROM {table}
WHERE stream > $1 {filters}
ORDER BY stream
LIMIT $2

-- find --
-- Everything of this id, whoever's it is.
SELECT stream, position, {names} FROM {table}
WHERE "{key}" = $1 {filters}
ORDER BY stream
LIMIT $2

-- find_other_timeline --
-- The timeline of this server and the accepted one, if they differ. A replica has none of its own.
SELECT current_timeline() AS now, timeline AS accepted
FROM log_head
WHERE only_row AND NOT pg_is_in_recovery() AND timeline <> current_timeline()

-- find_held_up --
-- Live generations that an error holds up, or whose next event has waited for more than 30 s, and for how long.
SELECT p.name, p.error, e.position, extract(epoch FROM clock_timestamp() - e.recorded_at)::float8 AS seconds
FROM projections AS p
LEFT JOIN events AS e ON e.position = p.checkpoint + 1
WHERE p.status = 'live' AND (p.error IS NOT NULL OR e.recorded_at < clock_timestamp() - interval '30 s')
ORDER BY p.name
