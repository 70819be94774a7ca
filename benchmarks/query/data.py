"""What is asked about: a long log and its states, in the data directory of a Loopledger; it may be kept."""

from pathlib import Path

import aiohttp
import msgspec

from benchmarks.harness import servers
from benchmarks.harness.api import Api
from benchmarks.harness.command import fail
from benchmarks.harness.postgres import Postgres, connected
from benchmarks.harness.progress import progress, show_progress
from benchmarks.harness.server_process import LoopledgerProcess
from benchmarks.harness.signer import Signer
from benchmarks.lag.client import Client
from benchmarks.query.queries import QUERIES
from benchmarks.query.questions import CARDS, long_history, short_histories
from benchmarks.rebuild.events import Plan
from benchmarks.rebuild.loading import load

# How fast the events of long histories are sent, a second.
RATE = 2_000.0


class Kept(msgspec.Struct, frozen=True):
    """What a data directory holds: the events of `plan`, and `long` of one card.

    `middle` is a position in the middle of these, 0 until all is there.
    """

    plan: Plan
    long: int
    middle: int = 0


class Data:
    """The data of one benchmark, in a directory; `directory` is where in it Loopledger has its own."""

    def __init__(self, directory: Path, plan: Plan, long: int) -> None:
        self.directory = directory / "data"
        self._plan = plan
        self._long = long
        self._log = directory / servers.LOG
        self._note = directory / "benchmark.json"

    @property
    def _kept(self) -> Kept | None:
        if not self._note.exists():
            return None
        kept = msgspec.json.decode(self._note.read_bytes(), type=Kept)
        if (kept.plan, kept.long) != (self._plan, self._long):
            fail(f"{self.directory} holds other data: {kept}")
        return kept

    async def load(self) -> None:
        """Put the events on record and fold them, unless that was done. No Postgres runs yet. Raises BenchmarkError."""
        if self._kept is None:
            await self._serve_until_folded()
            await load(self.directory, self._plan)
            self._keep(Kept(self._plan, self._long))
        if not (self._kept or Kept(self._plan, self._long)).middle:
            await self._serve_until_folded()

    async def _serve_until_folded(self) -> None:
        """Let a Loopledger make its tables, and fold what is on record."""
        process = LoopledgerProcess(self.directory, self._log)
        process.ready_path = "/healthz"
        async with servers.running(process), aiohttp.ClientSession() as session:
            with progress("folding", self._plan.events) as show:
                await Api(process.url, session).caught_up(show)

    def _keep(self, kept: Kept) -> None:
        self._note.write_bytes(msgspec.json.encode(kept))

    async def complete(self, server: servers.Server, postgres: Postgres, signer: Signer) -> int:
        """Wait until all is folded, and add the long histories unless they are there; gives back Kept.middle."""
        kept = self._kept or Kept(self._plan, self._long)
        async with aiohttp.ClientSession() as session:
            api = Api(server.url, session)
            head = await _caught_up(api)
            if kept.middle:
                return kept.middle
            await _send(server, signer, self._long)
            await _caught_up(api)
        show_progress("vacuum")
        async with connected(postgres.dsn) as connection:
            await connection.execute(QUERIES["vacuum"], timeout=None)
        middle = head + self._long // 2
        self._keep(Kept(self._plan, self._long, middle))
        return middle


async def random_cards(postgres: Postgres) -> list[str]:
    """The ids of some cards."""
    async with connected(postgres.dsn) as connection:
        return [row["id"] for row in await connection.fetch(QUERIES["random_cards"], CARDS)]


async def _caught_up(api: Api) -> int:
    return (await api.caught_up())[0].head


async def _send(server: servers.Server, signer: Signer, long: int) -> None:
    show_progress("sending long histories")
    client = Client(server.url, signer)
    try:
        for made in (long_history(long), short_histories()):
            await client.send_all(list(made), RATE)
    finally:
        await client.close()
