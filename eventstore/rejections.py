"""Requests that were refused, on record with their cause: an engineer's first question is what was sent and why not.

Nobody can fill the disk with them: their number and bytes are limited, what is written a second too, a repeat only
raises a count, and what comes between two writes is gathered in memory within limits. Verified senders and strangers
have limits of their own, so that no stranger pushes out what an operator needs; no body of a stranger is kept.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from eventstore.errors import printable
from eventstore.postgres.failures import is_outage
from eventstore.postgres.queries import load_queries
from eventstore.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

QUERIES = load_queries(Path(__file__).with_name("rejections.sql"))

logger = structlog.get_logger()

# Seconds between two writes.
WRITE_SECONDS = 0.5

# The largest bigint: a Content-Length may say anything.
LARGEST_SIZE = 2**63 - 1

# Seconds' worth of what may be written that is gathered in memory.
GATHERED_SECONDS = 10

# Seconds between two lines of the log that say so.
LOG_SECONDS = 60.0

# How much of a sentence is kept, in characters: it may quote what was sent.
LONGEST_PROBLEM = 500


class NewRejection(msgspec.Struct, frozen=True, kw_only=True):
    """A refused request. `body` is its beginning, `size` its whole size in bytes; `cause` a word, `problem` a sentence.

    `identity` is what besides the body tells one delivery from another: topic and tenant, where headers hold them; of a
    stranger, whose body does not count, address and problem. `verified`: the sender was, and something else was wrong.
    """

    provider: str
    cause: str
    problem: str
    address: str
    identity: bytes
    headers: bytes
    body: bytes
    size: int
    at: datetime
    verified: bool


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A refused request on record, `count` times between `first_at` and `last_at`; `id` is counted from 1.

    `provider` is whom it was sent for, from `address`; `cause` is a word, `problem` a sentence; `size` is the body's,
    in bytes. `retried_at` and `position`: when it was tried again, and where it went in the log. `verified`: its sender
    was; else it was a stranger, whose body is not kept.
    """

    id: int
    provider: str
    cause: str
    problem: str
    address: str
    size: int
    first_at: datetime
    last_at: datetime
    count: int
    retried_at: datetime | None
    position: int | None
    verified: bool


class RejectionWithRequest(Rejection, frozen=True, kw_only=True):
    """A rejection with headers and body; `digest` is of these, `trusted`: an operator vouches for these."""

    digest: str
    trusted: bool
    headers: bytes
    body: bytes

    @property
    def complete(self) -> bool:
        """Whether the whole body is on record."""
        return len(self.body) == self.size


class _Gathered:
    """What was noted of one class of senders since the last write, within its limits."""

    def __init__(self, most: int, rows_per_second: float, bytes_per_second: float) -> None:
        self._most = most
        self._rows = _Allowance(rows_per_second)
        self._bytes = _Allowance(bytes_per_second)
        self._size = 0
        self._found: dict[bytes, tuple[NewRejection, int]] = {}
        self.lost = 0
        # As `lost`, but never set back.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._found)

    def add(self, key: bytes, rejection: NewRejection, count: int = 1) -> None:
        """Note one, unless there are as many already, or as many bytes, as may be gathered."""
        known = self._found.get(key)
        size = self._size + _size_of(rejection) - (_size_of(known[0]) if known else 0)
        if (
            not known
            and self._found
            and (len(self._found) >= self._most or size > GATHERED_SECONDS * self._bytes.per_second)
        ):
            self.lost += count
            self.dropped += count
            return
        self._size = size
        self._found[key] = (rejection, count + (known[1] if known else 0))

    def take(self, now: float) -> dict[bytes, tuple[NewRejection, int]]:
        """Take what may be written now, the first noted first; one at least, if anything may be."""
        taken: dict[bytes, tuple[NewRejection, int]] = {}
        self._rows.refill(now)
        self._bytes.refill(now)
        while self._found and self._rows.left >= 1 and self._bytes.left > 0:
            key = next(iter(self._found))
            taken[key] = self._found.pop(key)
            size = _size_of(taken[key][0])
            self._size -= size
            self._rows.left -= 1
            self._bytes.left -= size
        return taken


class _Allowance:
    """How much of something there may be a second, and a second's worth at once."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self.left = per_second
        self._refilled = 0.0

    def refill(self, now: float) -> None:
        self.left = min(
            max(self.per_second, 1.0), self.left + (now - self._refilled) * self.per_second
        )
        self._refilled = now


class Rejections:
    """The rejections of one database, as one process writes and reads them: `share` of what a server may write."""

    def __init__(self, database: "Database", limits: "Limits", share: float = 1.0) -> None:
        self._database = database
        self._limits = limits
        self._refused = 0
        self._logged = -LOG_SECONDS
        self._share = share
        # By provider, and whether the sender was verified: where anybody may send, nobody is kept out of the others.
        self._gathered: dict[tuple[str, bool], _Gathered] = {}

    @property
    def dropped(self) -> dict[str, int]:
        """How many were not kept, since there were too many of these senders'."""
        counts = {"verified": 0, "unverified": 0}
        for (_, verified), gathered in self._gathered.items():
            counts["verified" if verified else "unverified"] += gathered.dropped
        return counts

    def note(self, rejection: NewRejection) -> None:
        """Remember a rejection; `run` writes it soon. Costs no I/O."""
        limits = self._limits
        key = _digest(rejection)
        headers, body = rejection.headers, rejection.body[: limits.rejection_body_bytes]
        most = limits.rejection_header_bytes
        if not rejection.verified:
            most, body = limits.stranger_rejection_header_bytes, b""
        if len(headers) > most:
            # Half a header would be another header: cut between two, and keep no body to try again with.
            headers = headers[: headers.rfind(b"\r\n", 0, most) + 2]
            body = b""
        kept = msgspec.structs.replace(
            rejection,
            problem=printable(rejection.problem[:LONGEST_PROBLEM]),
            address=printable(rejection.address),
            body=body,
            headers=headers,
            size=min(rejection.size, LARGEST_SIZE),
        )
        self._gathered_of(rejection.provider, rejection.verified).add(key, kept)

    def _gathered_of(self, provider: str, verified: bool) -> _Gathered:  # noqa: FBT001 - half of a key
        gathered = self._gathered.get((provider, verified))
        if gathered is None:
            limits, share = self._limits, self._share
            most, rows, size = (
                limits.stranger_rejections_kept,
                limits.stranger_rejections_per_second,
                limits.stranger_rejection_bytes_per_second,
            )
            if verified:
                most, rows, size = (
                    limits.rejections_kept,
                    limits.rejections_per_second,
                    limits.rejection_bytes_per_second,
                )
            gathered = _Gathered(most, rows * share, size * share)
            self._gathered[provider, verified] = gathered
        return gathered

    async def run(self) -> None:
        """Write what was noted, again and again, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            try:
                await self.write()
            except Exception as error:
                raise_if_cancelled()
                if not is_outage(error):
                    logger.exception(
                        "rejections_not_written",
                        message="Refused requests could not be put on record; trying again.",
                    )

    async def write(self) -> None:
        """Write what was noted, as far as it may be now, and delete the oldest beyond the limits."""
        now = time.monotonic()
        taken = [(each, each.take(now)) for each in self._gathered.values()]
        rows = {key: noted for _, some in taken for key, noted in some.items()}
        if not rows:
            return
        try:
            await self._write(rows)
        except BaseException:
            # What there is room for is tried again.
            for gathered, some in taken:
                for key, (rejection, count) in some.items():
                    gathered.add(key, rejection, count)
            raise

    async def _write(self, gathered: Mapping[bytes, tuple[NewRejection, int]]) -> None:
        rows = [
            (
                key,
                new.provider,
                new.cause,
                new.problem,
                new.address,
                new.headers,
                new.body,
                new.size,
                new.at,
                count,
                new.verified,
            )
            for key, (new, count) in gathered.items()
        ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        limits = self._limits
        async with self._database.transaction() as connection:
            await connection.execute(QUERIES["commit_without_waiting"])
            await connection.execute(QUERIES["record_rejections"], *columns)
            await connection.execute(
                QUERIES["prune_rejections"],
                limits.rejections_kept,
                limits.rejections_bytes,
                limits.stranger_rejections_kept,
            )
        self._refused += sum(count for _, count in gathered.values())
        if (now := time.monotonic()) - self._logged >= LOG_SECONDS:
            self._logged = now
            self._log()

    def _log(self) -> None:
        logger.info(
            "requests_refused",
            message="Requests were refused; `loopledger rejections list` shows them.",
            count=self._refused,
        )
        self._refused = 0
        lost = {key: each.lost for key, each in self._gathered.items()}
        if any(lost.values()):
            logger.warning(
                "rejections_dropped",
                message="More requests were refused than are put on record.",
                lost=sum(lost.values()),
                of_strangers=sum(count for (_, verified), count in lost.items() if not verified),
            )
        for each in self._gathered.values():
            each.lost = 0

    async def read(self, id_: int) -> RejectionWithRequest | None:
        """One rejection with its request, or None."""
        row = await self._database.fetchrow(QUERIES["read_rejection"], id_)
        return None if row is None else RejectionWithRequest(**row)

    async def claim(self, id_: int) -> bool:
        """Reserve a rejection for another try; False if somebody has, or if it is in the log already."""
        async with self._database.transaction() as connection:
            return await connection.fetchval(QUERIES["claim_rejection"], id_) is not None

    async def trust(self, id_: int, digest: str) -> bool:
        """Vouch for what is on record of a rejection; False if there is none, or if it has another digest by now."""
        return await self._database.fetchval(QUERIES["trust_rejection"], id_, digest) is not None

    async def finish(self, id_: int, position: int | None) -> None:
        """Record where in the log a claimed rejection went; None gives it back."""
        await self._database.execute(QUERIES["finish_rejection"], id_, position)


def _size_of(rejection: NewRejection) -> int:
    return len(rejection.headers) + len(rejection.body) + len(rejection.problem)


def _digest(rejection: NewRejection) -> bytes:
    """What two rejections have in common if, and only if, one repeats the other."""
    facts = [rejection.provider, rejection.cause, str(rejection.verified)]
    parts = b""
    if rejection.verified:
        facts.append(str(rejection.size))
        parts = rejection.body
    digest = hashlib.sha256("\0".join([*facts, ""]).encode("utf-8", "surrogatepass"))
    digest.update(rejection.identity + b"\0" + parts)
    return digest.digest()
