-- Keys of the API.

-- The keys of the API: who has one, for what, of which merchants (null: all), and until when. Of the key itself there is
-- its SHA-256 alone. A key that is revoked stays on record, so that one was made at all is never forgotten.
CREATE TABLE keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    scopes text[] NOT NULL CHECK (
        cardinality(scopes) > 0
        AND scopes <@ ARRAY['read', 'reveal', 'raw', 'find', 'operate', 'audit', 'metrics', 'admin']
    ),
    merchants text[] CHECK (cardinality(merchants) > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    -- What concerns the whole store is not for a key of some merchants.
    CHECK (merchants IS NULL OR NOT scopes && ARRAY['operate', 'audit', 'metrics', 'admin'])
);

CREATE UNIQUE INDEX keys_name ON keys (name) WHERE revoked_at IS NULL;

-- Put a key on record, unless its name is taken or there are `most` keys already; none is returned then. So many that were
-- revoked are kept, too.
CREATE FUNCTION create_key(
    name text, digest bytea, scopes text[], merchants text[], expires_at timestamptz, most bigint
) RETURNS SETOF keys
LANGUAGE sql AS $$
    DELETE FROM keys AS k WHERE k.id IN (
        SELECT o.id FROM keys AS o WHERE o.revoked_at IS NOT NULL ORDER BY o.revoked_at DESC, o.id DESC OFFSET most
    );
    INSERT INTO keys AS k (name, digest, scopes, merchants, expires_at)
    SELECT $1, $2, $3, $4, $5
    WHERE (SELECT count(*) FROM keys AS o WHERE o.revoked_at IS NULL) < most
    ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
    RETURNING k.*
$$;

-- Revoke a key for good. None is returned if there is no such key.
CREATE FUNCTION revoke_key(id bigint) RETURNS SETOF keys
LANGUAGE sql AS $$
    UPDATE keys AS k SET revoked_at = coalesce(k.revoked_at, clock_timestamp()) WHERE k.id = $1 RETURNING k.*
$$;

DO $$
DECLARE
    function regprocedure;
BEGIN
    -- These run as the owner of the log, whoever calls them: nothing that they name may be another's.
    FOR function IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = current_schema()::regnamespace AND p.proname IN ('create_key', 'revoke_key')
    LOOP
        EXECUTE format(
            'ALTER FUNCTION %s SECURITY DEFINER SET search_path = %I, pg_temp', function, current_schema()
        );
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
END
$$;
