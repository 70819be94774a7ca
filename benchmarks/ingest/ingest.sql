-- fill --
-- Events $1 to $2, $3 to a stream: narrow ones, in streams whose names come in no order, as those of real things do.
INSERT INTO events (
    position, event_id, provider, topic, merchant_id, stream, received_at, recorded_at, headers, body
)
SELECT
    n, gen_random_uuid(), 'loopz', 'location.updated', 'm-0',
    'loopz/m-0/location/' || md5((n / $3)::text)::uuid, now(), now(), '', '{}'
FROM generate_series($1::bigint, $2::bigint) AS n

-- move_head --
-- The head stands where the events end.
UPDATE log_head SET position = $1, recorded_at = now()

-- move_checkpoints --
-- As if every projection had seen all of it and handled none: checkpoint = folded + ignored + quarantined.
UPDATE projections SET checkpoint = $1, ignored = $1

-- make_table --
-- What one would make in an afternoon to insert deliveries into.
CREATE TABLE events (
    position bigserial PRIMARY KEY,
    topic text NOT NULL,
    merchant text NOT NULL,
    received_at timestamptz NOT NULL,
    body bytea NOT NULL
)

-- insert --
-- One delivery; tells its position.
INSERT INTO events (topic, merchant, received_at, body) VALUES ($1, $2, $3, $4) RETURNING position
