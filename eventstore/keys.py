"""Keys: who may use the API, for what, of which merchants, and until when.

Of a key there is only its SHA-256 on record: it is long and random, so that nobody finds it from that. Each process
keeps what is on record in memory, and reads it again when somebody asks and it is older than `MAX_AGE`: a key that is
revoked is refused everywhere within a second, and where nobody asks, nothing is read.
"""

import asyncio
import hashlib
import re
import secrets
import string
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from eventstore.errors import KeyNameError, TooManyKeysError
from eventstore.postgres.failures import is_outage
from eventstore.postgres.queries import load_queries
from eventstore.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

QUERIES = load_queries(Path(__file__).with_name("keys.sql"))

# What a key may be for.
KeyScope: TypeAlias = Literal[
    "read", "reveal", "raw", "find", "operate", "audit", "metrics", "admin"
]

# What concerns the whole store, and so is not for a key of some merchants.
WHOLE_STORE: Final = frozenset({"operate", "audit", "metrics", "admin"})

PREFIX: Final = "llk_"
ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_CHARACTERS: Final = 30
CHECK_CHARACTERS: Final = 6
LENGTH: Final = len(PREFIX) + RANDOM_CHARACTERS + CHECK_CHARACTERS

_KEY = re.compile(rf"{PREFIX}[0-9A-Za-z]{{20,}}")
HIDDEN: Final = f"{PREFIX}..."

# Seconds after which what is on record is read again.
MAX_AGE: Final = 0.5

# How long at least lies between two looks for a key that is not there: it may be new, and many may ask for such a key.
UNKNOWN_PAUSE: Final = 0.05


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key on record: its `id`, counted from 1, and its `name`; never the key itself.

    `scopes` are what it is for, `merchants` the ids of those whose things it shows, null for all. It counts from
    `created_at` until `expires_at` or `revoked_at`, where these are not null.
    """

    id: int
    name: str
    scopes: tuple[KeyScope, ...]
    merchants: tuple[str, ...] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that is to be made."""

    name: str
    scopes: tuple[KeyScope, ...]
    merchants: tuple[str, ...] | None = None
    expires_at: datetime | None = None


class KeyRing(msgspec.Struct, frozen=True):
    """The keys as they were on record at `read_at`, by time.monotonic.

    `in_force` are those that count, by the SHA-256 of each; `expired` those whose time is over. `any`: there is one, or
    was. `ids` are those of the keys in force.
    """

    read_at: float
    in_force: Mapping[bytes, Key]
    expired: Mapping[bytes, Key]
    any: bool
    ids: frozenset[int] = frozenset()


def make_key() -> str:
    """Make a key that nobody can guess: 178 bits."""
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARACTERS))
    return body + _checksum(body)


def is_well_formed(key: str) -> bool:
    """Say whether a text is a key as `make_key` makes them, by its checksum: a mistyped one is none."""
    return (
        len(key) == LENGTH
        and key.isascii()
        and key.startswith(PREFIX)
        and key[-CHECK_CHARACTERS:] == _checksum(key[:-CHECK_CHARACTERS])
    )


def hide_keys(text: str) -> str:
    """A text without the keys in it, whosoever they are and whether they count."""
    return _KEY.sub(HIDDEN, text) if PREFIX in text else text


def digest_of(key: str) -> bytes:
    """What is on record of a key: its SHA-256."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(text: str) -> str:
    """The CRC32 of a text in six digits of base 62."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECK_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


class Keys:
    """The keys of one database, as one process writes and reads them."""

    def __init__(self, database: "Database", limits: "Limits") -> None:
        self._database = database
        self._limits = limits
        self._ring: KeyRing | None = None
        self._reading: asyncio.Task[KeyRing] | None = None

    async def create(self, new: NewKey) -> tuple[Key, str]:
        """Make a key; gives it back with what is on record of it. Raises KeyNameError, TooManyKeysError."""
        text = make_key()
        most = self._limits.keys_kept
        # Not `fetch`: to try again after a lost connection would find the name taken.
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                QUERIES["create_key"],
                new.name,
                digest_of(text),
                list(dict.fromkeys(new.scopes)),
                _list(new.merchants),
                new.expires_at,
                most,
            )
            if row is None and await connection.fetchval(QUERIES["is_name_taken"], new.name):
                raise KeyNameError(name=new.name)
        if row is None:
            raise TooManyKeysError(limit=most)
        self._ring = None
        return msgspec.convert(dict(row), Key), text

    async def revoke(self, id_: int) -> Key | None:
        """Revoke a key, for good; None if there is none of this id."""
        row = await self._database.fetchrow(QUERIES["revoke_key"], id_)
        self._ring = None
        return None if row is None else msgspec.convert(dict(row), Key)

    async def list_all(self) -> list[Key]:
        """All that are on record, those that were revoked included, the newest last."""
        rows = await self._database.fetch(QUERIES["list_keys"])
        return [
            msgspec.convert({name: row[name] for name in Key.__struct_fields__}, Key)
            for row in rows
        ]

    async def ring(self, max_age: float = MAX_AGE) -> KeyRing:
        """The keys as they are, or were at most `max_age` seconds ago."""
        asked = time.monotonic()
        while (ring := self._ring) is None or ring.read_at < asked - max_age:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read(), name="keys")
                # Whoever waits for it hears of its error; nobody may.
                self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
            # Whoever gives up leaves it to the others.
            self._ring = await asyncio.shield(self._reading)
        return ring

    async def last_ring(self) -> KeyRing:
        """The keys as they are or, while Postgres does not answer, as they were when it last did."""
        try:
            return await self.ring()
        except Exception as error:
            raise_if_cancelled()
            if self._ring is None or not is_outage(error):
                raise
            return self._ring

    async def newest_ring(self) -> KeyRing:
        """The keys as they are now, for a key that is not among those that were read last.

        However many ask, they are read once in UNKNOWN_PAUSE seconds.
        """
        asked = time.monotonic()
        while (ring := self._ring) is None or ring.read_at < asked:
            if ring is not None:
                await asyncio.sleep(ring.read_at + UNKNOWN_PAUSE - time.monotonic())
            ring = await self.ring(max_age=UNKNOWN_PAUSE)
        return ring

    async def _read(self) -> KeyRing:
        read_at = time.monotonic()
        rows = await self._database.fetch(QUERIES["list_keys"])
        in_force: dict[bytes, Key] = {}
        expired: dict[bytes, Key] = {}
        for row in rows:
            if row["revoked_at"] is None:
                fields = {name: row[name] for name in Key.__struct_fields__}
                key = msgspec.convert(fields, Key)
                (expired if row["expired"] else in_force)[row["digest"]] = key
        ids = frozenset(key.id for key in in_force.values())
        return KeyRing(read_at, in_force, expired, bool(rows), ids)


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(dict.fromkeys(values))
