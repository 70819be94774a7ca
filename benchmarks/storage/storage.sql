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
