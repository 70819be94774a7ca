-- create_database --
-- A database for one of the sides.
CREATE DATABASE {name}

-- drop_index --
-- Leave an index out on one side.
DROP INDEX {name}

-- written --
-- How much write-ahead log there is.
SELECT pg_current_wal_insert_lsn() - '0/0'

-- checkpoint --
-- Have all pages written, so that all sides begin alike.
CHECKPOINT
