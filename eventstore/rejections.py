"""Requests that were refused, on record with their cause: an engineer's first question is what was sent and why not.

Nobody can fill the disk with them: their number and the bytes of each are limited, a repeat only raises a count, and
what comes between two writes is gathered in memory within the same limits.
"""

import asyncio
import hashlib
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


class NewRejection(msgspec.Struct, frozen=True, kw_only=True):
    """A refused request. `body` is its beginning, `size` its whole size in bytes; `cause` a word, `problem` a sentence.

    `identity` is what besides the body tells one delivery from another: topic and tenant, where headers hold them.
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


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A refused request on record, `count` times between `first_at` and `last_at`; `id` is counted from 1.

    `provider` is whom it was sent for, from `address`; `cause` is a word, `problem` a sentence; `size` is the body's,
    in bytes. `retried_at` and `position`: when it was tried again, and where it went in the log.
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


class RejectionWithRequest(Rejection, frozen=True, kw_only=True):
    """A rejection with what is on record of the request. `trusted`: an operator vouches for it."""

    trusted: bool
    headers: bytes
    body: bytes

    @property
    def complete(self) -> bool:
        """Whether the whole body is on record."""
        return len(self.body) == self.size


class Rejections:
    """The rejections of one database, as one process writes and reads them."""

    def __init__(self, database: "Database", limits: "Limits") -> None:
        self._database = database
        self._limits = limits
        self._gathered: dict[bytes, tuple[NewRejection, int]] = {}
        self._lost = 0

    def note(self, rejection: NewRejection) -> None:
        """Remember a rejection; `run` writes it soon. Costs no I/O."""
        key = _digest(rejection)
        _, count = self._gathered.get(key, (rejection, 0))
        if not count and len(self._gathered) >= self._limits.rejections_kept:
            self._lost += 1
            return
        limits = self._limits
        headers, body = rejection.headers, rejection.body[: limits.rejection_body_bytes]
        if len(headers) > limits.rejection_header_bytes:
            # Half a header would be another header: cut between two, and keep no body to try again with.
            headers = headers[: headers.rfind(b"\r\n", 0, limits.rejection_header_bytes) + 2]
            body = b""
        kept = msgspec.structs.replace(
            rejection,
            problem=printable(rejection.problem),
            address=printable(rejection.address),
            body=body,
            headers=headers,
            size=min(rejection.size, LARGEST_SIZE),
        )
        self._gathered[key] = (kept, count + 1)

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
        """Write what was noted since the last time, and delete the oldest beyond the limit."""
        if not self._gathered:
            return
        gathered, self._gathered = self._gathered, {}
        try:
            await self._write(gathered)
        except BaseException:
            # What came meanwhile is newer; what there is room for is tried again.
            kept = [*self._gathered.items(), *gathered.items()][: self._limits.rejections_kept]
            self._gathered = dict(reversed(kept))
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
            )
            for key, (new, count) in gathered.items()
        ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        async with self._database.transaction() as connection:
            await connection.execute(QUERIES["record_rejections"], *columns)
            await connection.execute(QUERIES["prune_rejections"], self._limits.rejections_kept)
        logger.info(
            "requests_refused",
            message="Requests were refused; `loopledger rejections list` shows them.",
            kinds=len(rows),
            count=sum(row[-1] for row in rows),
        )
        if self._lost:
            logger.warning(
                "rejections_dropped",
                message="More requests were refused than are kept on record.",
                lost=self._lost,
            )
            self._lost = 0

    async def page(self, before: int, limit: int) -> list[Rejection]:
        """The newest rejections with an id below `before`, without bodies."""
        rows = await self._database.fetch(QUERIES["list_rejections"], before, limit)
        return [Rejection(**row) for row in rows]

    async def read(self, id_: int) -> RejectionWithRequest | None:
        """One rejection with its request, or None."""
        row = await self._database.fetchrow(QUERIES["read_rejection"], id_)
        return None if row is None else RejectionWithRequest(**row)

    async def claim(self, id_: int) -> bool:
        """Reserve a rejection for another try; False if somebody has, or if it is in the log already."""
        async with self._database.transaction() as connection:
            return await connection.fetchval(QUERIES["claim_rejection"], id_) is not None

    async def trust(self, id_: int) -> bool:
        """Vouch for a rejection; False if there is none."""
        return await self._database.fetchval(QUERIES["trust_rejection"], id_) is not None

    async def finish(self, id_: int, position: int | None) -> None:
        """Record where in the log a claimed rejection went; None gives it back."""
        await self._database.execute(QUERIES["finish_rejection"], id_, position)


def _digest(rejection: NewRejection) -> bytes:
    """What two rejections have in common if, and only if, one repeats the other."""
    digest = hashlib.sha256(f"{rejection.provider}\0{rejection.cause}\0{rejection.size}\0".encode())
    digest.update(rejection.identity + b"\0" + rejection.body)
    return digest.digest()
