"""Keys for tests: of the servers that run in the suite's own process, and of databases."""

from collections.abc import Sequence
from datetime import datetime

from eventstore.keys import Keys, KeyScope, NewKey
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.query.visibility import Visibility
from web.access import Access

# The local key of each server in this process, by its address.
LOCAL_KEYS: dict[str, str] = {}

# What that allows in tests: all but to see what is masked.
OPERATOR = Access(
    "a test",
    frozenset({"read", "raw", "find", "operate", "audit", "metrics", "admin"}),
    Visibility(),
    0,
)


async def key_in(
    dsn: str,
    *scopes: KeyScope,
    merchants: Sequence[str] | None = None,
    expires_at: datetime | None = None,
    name: str | None = None,
) -> str:
    """Put a key on record in a database, as `loopledger keys create` does; from then on its servers ask for keys."""
    database = Database(dsn, pool_connections=1)
    await database.open()
    try:
        keys = Keys(database, Limits())
        number = len(await keys.list_all()) + 1
        bound = None if merchants is None else tuple(merchants)
        new = NewKey(
            name=name or f"key {number}",
            scopes=tuple(scopes) or ("read",),
            merchants=bound,
            expires_at=expires_at,
        )
        return (await keys.create(new))[1]
    finally:
        await database.close()


async def revoke_in(dsn: str) -> None:
    """Revoke all keys of a database."""
    database = Database(dsn, pool_connections=1)
    await database.open()
    try:
        keys = Keys(database, Limits())
        for key in await keys.list_all():
            await keys.revoke(key.id)
    finally:
        await database.close()
