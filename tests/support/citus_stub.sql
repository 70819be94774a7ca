-- What Loopledger uses of Citus, as a stand-in: it refuses what Citus refuses, and writes down what it was asked for.
-- Nothing is distributed by it.
CREATE TABLE pg_dist_partition (logicalrel regclass PRIMARY KEY, colocated_with regclass);

CREATE TABLE citus_calls (
    nth integer GENERATED ALWAYS AS IDENTITY,
    distributed regclass NOT NULL,
    by text NOT NULL,
    colocate_with text NOT NULL,
    mode text
);

CREATE FUNCTION citus_version() RETURNS text LANGUAGE sql AS $$ SELECT 'Citus 13.2.2 on a stand-in' $$;

CREATE FUNCTION citus_is_coordinator() RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;

CREATE FUNCTION create_distributed_table(
    table_name regclass,
    distribution_column text,
    distribution_type text DEFAULT 'hash',
    colocate_with text DEFAULT 'default',
    shard_count integer DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    partition regclass;
    other regclass := CASE WHEN colocate_with NOT IN ('default', 'none') THEN colocate_with::regclass END;
BEGIN
    IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrel = table_name) THEN
        RAISE EXCEPTION 'table "%" is already distributed', table_name;
    END IF;
    IF coalesce(current_setting('citus.enable_unsafe_triggers', true), 'off') <> 'on'
        AND EXISTS (SELECT FROM pg_trigger WHERE tgrelid = table_name AND NOT tgisinternal)
    THEN
        RAISE EXCEPTION 'cannot distribute relation "%" because it has triggers', table_name;
    END IF;
    IF EXISTS (
        SELECT FROM pg_index AS i
        WHERE i.indrelid = table_name AND i.indisunique AND NOT EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = table_name AND a.attname = distribution_column AND a.attnum = ANY (i.indkey)
        )
    ) THEN
        RAISE EXCEPTION 'cannot create constraint on "%"', table_name
            USING DETAIL = 'A unique key has to hold the distribution column.';
    END IF;
    IF other IS NOT NULL AND (
        SELECT count(DISTINCT (atttypid, attcollation)) FROM pg_attribute
        WHERE attrelid IN (table_name, other) AND attname = distribution_column
    ) <> 1 THEN
        RAISE EXCEPTION 'cannot colocate tables % and %', other, table_name
            USING DETAIL = 'Distribution column types or collations don''t match.';
    END IF;
    INSERT INTO pg_dist_partition VALUES (table_name, other);
    INSERT INTO citus_calls (distributed, by, colocate_with, mode)
    VALUES (table_name, distribution_column, colocate_with, current_setting('citus.multi_shard_modify_mode', true));
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = table_name ORDER BY 1 LOOP
        PERFORM create_distributed_table(partition, distribution_column, distribution_type, table_name::text);
    END LOOP;
END
$$;
