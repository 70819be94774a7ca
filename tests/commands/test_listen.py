"""`loopledger listen`: every event reaches a service at least once, in order per stream, whatever is killed."""

import asyncio
import json
import random
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import test_utils, web
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from commands._forwarding import Checkpoint, CheckpointError, Forwarder, Outgoing
from tests.conftest import StartLoopledger
from tests.support import ROOT, Client
from tests.support.keys import key_in
from verification.keyring import Secret
from verification.signatures import StandardCheck, StandardWebhooks

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - made up


class Service:
    """A service of one's own: takes most of what comes."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken: list[int] = []
        self.refuse: Callable[[int], bool] = lambda _: False
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Take an event, or not."""
        body = await request.read()
        position = int(request.headers["Loopledger-Position"])
        if self.refuse(position):
            return web.Response(status=500)
        self.requests.append((dict(request.headers), body))
        self.taken.append(position)
        return web.Response(status=204)

    async def has(self, positions: set[int]) -> None:
        """Return once it has taken all of these."""
        async with asyncio.timeout(60):
            while not positions <= set(self.taken):  # noqa: ASYNC110 - as below
                await asyncio.sleep(0.02)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    found = Service()
    app = web.Application()
    app.router.add_post("/hook", found.handle)
    async with test_utils.TestServer(app) as running:
        found.url = str(running.make_url("/hook"))
        yield found


@asynccontextmanager
async def listening(*arguments: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "commands", "listen", *arguments,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environ},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_killed_at_random_it_delivers_every_event_in_order_per_stream(
    client: Client, service: Service, tmp_path: Path
) -> None:
    chance = random.Random(1)
    service.refuse = lambda _: chance.random() < 0.05
    arguments = ["--url", client.base_url, "--to", service.url, "--since", "0"]
    arguments += ["--checkpoint", str(tmp_path / "listen.json")]
    streams: dict[int, str] = {}

    async def send() -> None:
        for number in range(300):
            answer = await client.loopz("location.updated", {"id": f"l-{number % 7}"})
            streams[answer.json["position"]] = f"l-{number % 7}"
            await asyncio.sleep(0.005)

    sending = asyncio.create_task(send())
    runs: list[list[int]] = []
    for _ in range(3):
        async with listening(*arguments) as process:
            begin, enough = len(service.taken), chance.randrange(20, 60)
            async with asyncio.timeout(30):
                while len(service.taken) < begin + enough:  # noqa: ASYNC110 - any moment will do
                    await asyncio.sleep(0.01)
            process.kill()
            await process.wait()
            await asyncio.sleep(0.1)
            runs.append(service.taken[begin:])
    await sending
    async with listening(*arguments):
        begin = len(service.taken)
        await service.has(set(streams))
        runs.append(service.taken[begin:])
    for run in runs:
        assert run
        assert_in_order(run, streams)
    # What comes first of each is in order over all of them; what was read before is not read from the start again.
    assert_in_order(list(dict.fromkeys(service.taken)), streams)
    assert len(service.taken) < 2 * len(streams)


def assert_in_order(positions: list[int], streams: dict[int, str]) -> None:
    by_stream: dict[str, list[int]] = defaultdict(list)
    for position in positions:
        by_stream[streams[position]].append(position)
    for found in by_stream.values():
        assert found == sorted(found)


async def test_the_event_is_posted_with_its_names_and_signed(
    client: Client, service: Service, tmp_path: Path
) -> None:
    position = (await client.loopz("location.updated", {"id": "a"})).json["position"]
    arguments = ["--url", client.base_url, "--to", service.url, "--since", "0"]
    arguments += ["--checkpoint", str(tmp_path / "c"), "--secret-env", "LISTEN_SECRET"]
    async with listening(*arguments, LISTEN_SECRET=SECRET) as process:
        await service.has({position})
        # A stop that is asked for keeps the checkpoint.
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    ((headers, body),) = service.requests
    event = json.loads(body)
    assert (event["position"], event["topic"]) == (position, "location.updated")
    assert headers["Loopledger-Stream"] == event["stream"] == "loopz/m-1/location/a"
    assert headers["Loopledger-Event-Id"] == event["event_id"]
    settings = StandardWebhooks(secrets=(Secret(env="X"),))
    check = StandardCheck(settings, lambda _: SECRET.encode(), "listen")
    claim = check.check_head(CIMultiDict(headers), float(headers["Webhook-Timestamp"]))
    check.check_body(claim, body)
    assert json.loads((tmp_path / "c").read_bytes()) == {"position": position}


async def test_without_a_checkpoint_it_has_to_be_told_where_to_begin(
    client: Client, service: Service, tmp_path: Path
) -> None:
    async with listening(
        "--url", client.base_url, "--to", service.url, "--checkpoint", str(tmp_path / "c")
    ) as process:
        _, said = await process.communicate()
        assert process.returncode == 1
        assert b"--since" in said


@hypothesis_settings(max_examples=60)
@given(
    streams=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    outcomes=st.lists(st.booleans(), max_size=60),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_cut_anywhere_it_delivers_at_least_once_in_order(
    streams: list[int],
    outcomes: list[bool],
    cuts: list[int],
) -> None:
    events = [Outgoing(n, str(stream), b"") for n, stream in enumerate(streams, 1)]
    taken: list[int] = []
    coming = iter(outcomes)

    async def run(position: int, cut: int | None) -> int:
        """Deliver from a position on until so many were tried; gives back the position then."""
        tries = 0
        enough = asyncio.Event()

        async def deliver(event: Outgoing, _: float) -> float | None:
            nonlocal tries
            tries += 1
            await asyncio.sleep(0)
            if cut is not None and tries > cut:
                enough.set()
                await asyncio.sleep(3600)
            if not next(coming, True):
                return 0.0
            taken.append(event.position)
            return None

        forwarder = Forwarder(deliver, position=position, connections=2)
        running = asyncio.create_task(forwarder.run())
        for event in events[position:]:
            await forwarder.offer(event)
        async with asyncio.timeout(10):
            while not enough.is_set() and forwarder.position < len(events):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return forwarder.position

    position = 0
    for cut in [*cuts, None]:
        before = len(taken)
        position = asyncio.run(run(position, cut))
        assert set(range(1, position + 1)) <= set(taken)
        assert_in_order(taken[before:], {event.position: event.stream for event in events})
    assert position == len(events)


def test_a_checkpoint_has_one_owner_and_outlives_it(tmp_path: Path) -> None:
    first, second = (Checkpoint(tmp_path / "c") for _ in range(2))
    assert first.open() is None
    first.save(17)
    with pytest.raises(CheckpointError, match="in use"):
        second.open()
    first.close()
    assert second.open() == 17
    second.close()


async def test_exact_bytes_are_posted_to_those_who_may_have_them(
    start: StartLoopledger, dsn: str, service: Service, tmp_path: Path
) -> None:
    body = b'{"id" : "a",\n "name":"\xc3\xa4"}'
    async with start() as server, aiohttp.ClientSession(server.url) as session:
        await Client(session).loopz("location.updated", body)
        key = await key_in(dsn, "read", "raw")
        async with listening(
            "--url", server.url, "--to", service.url, "--since", "0", "--send", "body",
            "--checkpoint", str(tmp_path / "c"), LOOPLEDGER_KEY=key,
        ):  # fmt: skip
            await service.has({1})
    assert service.requests[0][1] == body
