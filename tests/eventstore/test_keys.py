"""Keys: what they look like, what is on record of them, and when they cease to count."""

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from eventstore.errors import KeyNameError, TooManyKeysError
from eventstore.keys import ALPHABET, Keys, NewKey, digest_of, is_well_formed, make_key
from eventstore.limits import Limits
from eventstore.postgres.database import Database

READ = NewKey(name="reports", scopes=("read",))


def mistyped(key: str) -> Iterator[str]:
    """A key with one character changed, left out, doubled, or swapped with the next."""
    for n in range(4, len(key)):
        other = ALPHABET[(ALPHABET.index(key[n]) + 1) % len(ALPHABET)]
        yield key[:n] + other + key[n + 1 :]
        yield key[:n] + key[n + 1 :]
        yield key[: n + 1] + key[n:]
        if key[n : n + 1] != key[n + 1 : n + 2]:
            yield key[:n] + key[n + 1 : n + 2] + key[n] + key[n + 2 :]


def test_a_key_is_recognised_and_a_mistyped_one_is_none() -> None:
    key = make_key()
    assert len(key) == 40
    assert is_well_formed(key)
    assert [one for one in mistyped(key) if one != key and is_well_formed(one)] == []
    for other in ("", "llk_", key.upper(), key.replace("llk_", "llx_"), key + "é"):
        assert not is_well_formed(other)


async def test_of_a_key_its_digest_alone_is_on_record(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    keys = Keys(database, Limits())
    made, text = await keys.create(READ)
    assert await keys.list_all() == [made]
    row = await connection.fetchrow("SELECT * FROM keys")
    assert row is not None
    assert row["digest"] == hashlib.sha256(text.encode()).digest()
    assert text not in str(dict(row))
    assert (await keys.ring()).in_force == {digest_of(text): made}


async def test_a_revoked_key_stays_on_record_and_never_counts_again(database: Database) -> None:
    here, elsewhere = Keys(database, Limits()), Keys(database, Limits())
    made, text = await here.create(READ)
    assert digest_of(text) in (await elsewhere.ring()).in_force
    revoked = await here.revoke(made.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert await here.revoke(made.id) == revoked
    assert (await here.ring()).in_force == {}
    async with asyncio.timeout(1):
        while (await elsewhere.ring()).in_force:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    assert (await elsewhere.ring()).any
    # Its name may be given again.
    assert (await here.create(READ))[0].id != made.id
    assert await here.revoke(10**9) is None


async def test_a_key_expires_by_the_clock_of_the_database(database: Database) -> None:
    keys = Keys(database, Limits())
    late = datetime.now(UTC) - timedelta(seconds=1)
    _, text = await keys.create(NewKey(name="old", scopes=("read",), expires_at=late))
    ring = await keys.ring()
    assert ring.in_force == {}
    assert digest_of(text) in ring.expired
    assert ring.any


async def test_keys_are_read_once_for_all_who_ask_and_not_where_nobody_does(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(database, Limits())
    reads = 0
    fetch = database.fetch

    async def counted(query: str, *values: object) -> list[asyncpg.Record]:
        nonlocal reads
        reads += 1
        return await fetch(query, *values)

    monkeypatch.setattr(database, "fetch", counted)
    await asyncio.gather(*(keys.ring() for _ in range(50)))
    await asyncio.sleep(0.6)
    assert reads == 1
    await asyncio.gather(*(keys.ring() for _ in range(50)))
    assert reads == 2


async def test_whoever_gives_up_waiting_leaves_the_answer_to_the_others(database: Database) -> None:
    keys = Keys(database, Limits())
    first, second = (asyncio.create_task(keys.ring()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert not (await second).any


async def test_a_name_is_one_keys_and_there_are_only_so_many(database: Database) -> None:
    keys = Keys(database, Limits(keys_kept=2))
    made, _ = await keys.create(READ)
    with pytest.raises(KeyNameError, match="reports"):
        await keys.create(READ)
    await keys.create(NewKey(name="second", scopes=("raw",)))
    with pytest.raises(TooManyKeysError, match="2 keys"):
        await keys.create(NewKey(name="third", scopes=("raw",)))
    await keys.revoke(made.id)
    # Of those that were revoked as many stay on record.
    for n in range(5):
        another, _ = await keys.create(NewKey(name=f"more {n}", scopes=("raw",)))
        await keys.revoke(another.id)
    assert [key.name for key in await keys.list_all() if key.revoked_at] == [
        "more 2",
        "more 3",
        "more 4",
    ]


@pytest.mark.parametrize(
    "values",
    [
        "('x', sha256('x'), '{}', NULL)",
        "('x', sha256('x'), '{fly}', NULL)",
        "('', sha256('x'), '{read}', NULL)",
        "('x', 'short', '{read}', NULL)",
        "('x', sha256('x'), '{read}', '{}')",
        *(
            f"('x', sha256('x'), '{{read,{scope}}}', '{{m-1}}')"
            for scope in ("operate", "audit", "metrics", "admin")
        ),
    ],
)
async def test_the_database_itself_takes_no_key_that_makes_no_sense(
    connection: "asyncpg.Connection[asyncpg.Record]", values: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(
            f"INSERT INTO keys (name, digest, scopes, merchants) VALUES {values}"  # noqa: S608
        )
