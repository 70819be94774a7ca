-- read_range --
-- The events of these topics after one position up to another, whose streams hash to a range, in order. Fields of fixed
-- size come first, with the sizes of the others: copying.EventReader reads this.
SELECT
    position, received_at, recorded_at, array_position(topics, provider || ' ' || topic)::int2 - 1::int2, event_id,
    octet_length(stream), octet_length(owner), octet_length(body), stream, owner, body
FROM (SELECT ARRAY[{topics}]::text[] AS topics) AS wanted, (
    SELECT *, merchant_id || coalesce(U&'\001E' || program_id, '') AS owner FROM events
) AS owned
WHERE position > {after} AND position <= {until}
    AND provider || ' ' || topic = ANY(topics)
    AND hashtext(stream) BETWEEN {low} AND {high}
ORDER BY position

-- clear_range --
-- What an attempt at a range left behind.
DELETE FROM {table} WHERE hashtext(stream) BETWEEN $1 AND $2

-- clear_quarantine --
-- What it could not fold.
DELETE FROM quarantine WHERE projection = $1 AND generation = $2 AND hashtext(stream) BETWEEN $3 AND $4

-- live_lag --
-- How far the live generation is behind; nothing if it stands still.
SELECT coalesce(max(h.position - p.checkpoint), 0)
FROM projections AS p, log_head AS h
WHERE p.name = $1 AND p.status = 'live' AND p.error IS NULL
