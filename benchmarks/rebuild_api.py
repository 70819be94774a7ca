"""Loopledger rebuilding, asked through its API as anybody would; and how soon its live fold caught up."""

import asyncio
import os
import shutil
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

import aiohttp
import msgspec
import psutil

from benchmarks import processes
from benchmarks.processes import ROOT, fail

LOOK_SECONDS = 0.05
CATCH_UP_LOOK_SECONDS = 0.2
# How long a rebuild, or catching up, may take.
LONGEST_SECONDS = 7_200.0

# What a projection's module says at its end, in a copy of Loopledger that keeps no journal.
WITHOUT_JOURNAL = (
    "\nimport msgspec\nPROJECTION = msgspec.structs.replace(PROJECTION, journal=None)\n"
)


class Standing(msgspec.Struct, frozen=True):
    """A projection, as `GET /v1/projections` tells it."""

    name: str
    generation: int
    checkpoint: int
    head: int
    folded: int
    ignored: int
    quarantined: int
    error: str | None


class Standings(msgspec.Struct, frozen=True):
    """All of them."""

    items: list[Standing]


class Rows(msgspec.Struct, frozen=True):
    """How two generations compare."""

    before: int
    after: int
    added: int
    gone: int
    changed: int


class Diff(msgspec.Struct, frozen=True):
    """As much of a `diff` as is looked at."""

    rows: Rows


class Rebuild(msgspec.Struct, frozen=True):
    """As much of a rebuild as is looked at."""

    status: str
    percent: float
    folded: int
    ignored: int
    quarantined: int
    error: str | None
    started_at: datetime
    ready_at: datetime | None
    diff: Diff | None


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """How long a rebuild took, in seconds: from `started_at` until it followed the log, indexed; then its diff."""

    build: float
    diff: float


@asynccontextmanager
async def serving(code: Path, directory: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Run `loopledger serve` of some code, with its own Postgres in `directory / "data"`; its URL and its process."""
    config = directory / "loopledger.toml"
    config.write_text("")
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LOOPLEDGER_") and name != "DATABASE_URL"
    }
    environ |= {
        "LOOPLEDGER_CONFIG": str(config),
        "LOOPLEDGER_DATA_DIR": str(directory / "data"),
        "LOOPLEDGER_PORT": "0",
        "LOOPLEDGER_LOG_LEVEL": "warning",
    }
    command = [str(code / "cli.py"), "serve"]
    async with processes.server(command, directory / "server.log", environ) as running:
        yield running


def copy_without_journal(place: Path, projections: Sequence[str]) -> None:
    """Put a copy of Loopledger at `place` of which these projections keep no journal."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["include"]:
        source, target = ROOT / name.strip("/"), place / name.strip("/")
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for name in projections:
        with (place / "projections" / f"{name}.py").open("a") as module:
            module.write(WITHOUT_JOURNAL)


class Api:
    """The API of a Loopledger that runs."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def catch_up(self, show: Callable[[float], None]) -> list[Standing]:
        """Wait until every projection has folded the whole log. Raises BenchmarkError if one cannot."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < deadline:
            status, body = await self._ask("GET", "/v1/projections")
            if status != HTTPStatus.OK:
                fail(f"GET /v1/projections was answered {status}: {body!r}")
            standings = msgspec.json.decode(body, type=Standings).items
            for each in standings:
                if each.error or each.quarantined:
                    fail(f"the live fold did not do well: {each}")
            reached = min((each.checkpoint for each in standings), default=0)
            show(reached)
            if standings and all(each.checkpoint == each.head for each in standings):
                return standings
            await asyncio.sleep(CATCH_UP_LOOK_SECONDS)
        return fail("the projections did not catch up")

    async def rebuild(self, name: str, show: Callable[[float], None]) -> Rebuilt:
        """Rebuild a projection until it is ready. Raises BenchmarkError if it differs from the live one."""
        path = f"/v1/projections/{name}/rebuild"
        status, body = await self._ask("POST", path)
        if status != HTTPStatus.ACCEPTED:
            fail(f"POST {path} was answered {status}: {body!r}")
        built: float | None = None
        deadline = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < deadline:
            status, body = await self._ask("GET", path)
            now = time.monotonic()
            if status != HTTPStatus.OK:
                fail(f"GET {path} was answered {status}: {body!r}")
            rebuild = msgspec.json.decode(body, type=Rebuild)
            show(rebuild.percent)
            if built is None and rebuild.status != "building":
                built = now
            if rebuild.status == "failed":
                fail(f"the rebuild of {name} failed: {rebuild.error}")
            if rebuild.status == "ready" and rebuild.ready_at is not None:
                check(name, rebuild)
                whole = (rebuild.ready_at - rebuild.started_at).total_seconds()
                diff = now - (built or now)
                return Rebuilt(build=whole - diff, diff=diff)
            await asyncio.sleep(LOOK_SECONDS)
        return fail(f"the rebuild of {name} did not end")

    async def discard(self, name: str) -> None:
        """Forget the rebuild, and wait until it is gone."""
        await self._ask("POST", f"/v1/projections/{name}/discard")
        deadline = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < deadline:
            status, _ = await self._ask("GET", f"/v1/projections/{name}/rebuild")
            if status == HTTPStatus.NOT_FOUND:
                return
            await asyncio.sleep(LOOK_SECONDS)
        fail(f"the rebuild of {name} did not go away")

    async def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        async with self._session.request(method, self._url + path) as answer:
            return answer.status, await answer.read()


def check(name: str, rebuild: Rebuild) -> None:
    """See that a rebuild made what the live fold made. Raises BenchmarkError."""
    if rebuild.quarantined:
        fail(f"the rebuild of {name} put {rebuild.quarantined} events in quarantine")
    rows = rebuild.diff.rows if rebuild.diff else None
    if rows is None or rows.added or rows.gone or rows.changed:
        fail(f"the rebuild of {name} is not what the live fold made: {rows}")
