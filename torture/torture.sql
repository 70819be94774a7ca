-- head --
-- The newest position, as the head row has it.
SELECT position FROM log_head

-- lag --
-- How far the projection that is furthest behind has to go.
SELECT max(h.position - p.checkpoint) FROM projections AS p, log_head AS h WHERE p.status = 'live'

-- events --
-- The whole log, twins included.
SELECT position, event_id, provider, topic, merchant_id, program_id, stream, recorded_at, headers, body
FROM events
ORDER BY position, stream

-- counts --
-- Where every live generation stands.
SELECT name, generation, checkpoint, folded, ignored, quarantined FROM projections WHERE status = 'live'

-- quarantine --
-- What is in quarantine for one generation.
SELECT position FROM quarantine WHERE projection = $1 AND generation = $2

-- states --
-- Every state of a generation, with all that was folded of it.
SELECT stream, position, {names} FROM projected.{table}

-- client_backends --
-- The sessions of the server in its database, ours left out.
SELECT pid FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()
ORDER BY pid

-- leader --
-- The session that holds the lock of the projecting process.
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND (classid::bigint << 32 | objid::bigint) = hashtext('loopledger projector')::bigint

-- terminate --
-- End some of them.
SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) AS pid
