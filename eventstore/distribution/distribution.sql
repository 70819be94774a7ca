-- citus --
-- The version of Citus, and whether this is the coordinator.
SELECT citus_version() AS version, citus_is_coordinator() AS coordinator

-- other_sessions --
-- How many other sessions of Loopledger there are.
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'loopledger%' AND pid <> pg_backend_pid()

-- list_generations --
-- Every generation there is.
SELECT name, generation FROM projections ORDER BY name, generation

-- allow_triggers --
-- For this transaction: the triggers that defend the log go with it to every shard. They only raise.
SET LOCAL citus.enable_unsafe_triggers = on

-- one_shard_after_another --
-- For this transaction: what follows may touch the same tables again.
SET LOCAL citus.multi_shard_modify_mode = 'sequential'

-- stop_appends --
-- Wait for every append under way, and keep others out until this transaction ends.
SELECT position FROM log_head WHERE only_row FOR UPDATE

-- drop_key --
-- Make room for a key that no shard has to ask others about.
ALTER TABLE events DROP CONSTRAINT events_pkey

-- create_key --
-- A key for what is distributed by stream has to hold it. That no position is given out twice is kept by the head alone
-- from here on.
ALTER TABLE events ADD CONSTRAINT events_pkey PRIMARY KEY (position, stream)

-- distribute_log --
-- Distribute the log with all its partitions, those to come included.
SELECT create_distributed_table('events', 'stream', colocate_with => 'none')
