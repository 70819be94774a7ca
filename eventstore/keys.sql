-- list_keys --
-- Every key, the newest last; whether one has expired is said by the clock of the database.
SELECT
    id, name, digest, scopes, merchants, created_at, expires_at, revoked_at,
    coalesce(expires_at <= clock_timestamp(), false) AS expired
FROM keys
ORDER BY id

-- create_key --
-- Put a key on record; no row if its name is taken, or if there are $6 keys.
SELECT id, name, scopes, merchants, created_at, expires_at, revoked_at
FROM create_key($1, $2, $3, $4, $5, $6)

-- is_name_taken --
-- Whether a key of this name is in force.
SELECT EXISTS (SELECT FROM keys WHERE name = $1 AND revoked_at IS NULL)

-- revoke_key --
-- Revoke a key; no row if there is none of this id.
SELECT id, name, scopes, merchants, created_at, expires_at, revoked_at
FROM revoke_key($1)
