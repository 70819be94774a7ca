"""Loopledger rebuilding, asked through its API as anybody would."""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus

import msgspec

from benchmarks.harness.api import LONGEST_SECONDS, LOOK_SECONDS, Api
from benchmarks.harness.command import fail
from eventstore.fold.status import Rebuild


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """How long a rebuild took, in seconds: from `started_at` until it followed the log, indexed; then its diff."""

    build: float
    diff: float


async def rebuild(api: Api, name: str, show: Callable[[float], None]) -> Rebuilt:
    """Rebuild a projection until it is ready. Raises BenchmarkError if it differs from the live one."""
    path = f"/v1/projections/{name}/rebuild"
    await api.send("POST", path)
    built: float | None = None
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        found = msgspec.json.decode(await api.send("GET", path), type=Rebuild)
        now = time.monotonic()
        show(found.percent)
        if built is None and found.status != "building":
            built = now
        if found.status == "failed":
            fail(f"the rebuild of {name} failed: {found.error}")
        if found.status == "ready" and found.ready_at is not None:
            check(name, found)
            whole = (found.ready_at - found.started_at).total_seconds()
            diff = now - (built or now)
            return Rebuilt(build=whole - diff, diff=diff)
        await asyncio.sleep(LOOK_SECONDS)
    return fail(f"the rebuild of {name} did not end")


async def discard(api: Api, name: str) -> None:
    """Discard the rebuild of a projection, and wait until it is gone. Raises BenchmarkError if it stays."""
    await api.send("POST", f"/v1/projections/{name}/discard")
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        if await api.status(f"/v1/projections/{name}/rebuild") == HTTPStatus.NOT_FOUND:
            return
        await asyncio.sleep(LOOK_SECONDS)
    fail(f"the rebuild of {name} did not go away")


def check(name: str, rebuild: Rebuild) -> None:
    """See that a rebuild made what the live fold made. Raises BenchmarkError."""
    if rebuild.quarantined:
        fail(f"the rebuild of {name} put {rebuild.quarantined} events in quarantine")
    rows = rebuild.diff.rows if rebuild.diff else None
    if rows is None or rows.added or rows.gone or rows.changed:
        fail(f"the rebuild of {name} is not what the live fold made: {rows}")
