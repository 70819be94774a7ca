"""The fast path: a delivery in one piece makes no request of aiohttp's, and its sender cannot tell the difference."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from eventstore.limits import Limits
from eventstore.log.batch import OnOutcome
from eventstore.log.events import Appended
from eventstore.log.queries import QUERIES as LOG
from runtime import wiring
from tests.conftest import StartLoopledger
from tests.support import NOON, Client, encoded, loopz_headers
from tests.support.sender import Sender, connected
from verification.delivery import Delivery
from web.ingest.connection_limiter import ConnectionLimiter
from web.ingest.protocol import DeliveryServer
from web.ingest.receiver import Receiver

if TYPE_CHECKING:
    from asyncpg import Connection, Record

BODY = encoded({"id": "l-1", "status": "ACTIVE"})

# More than one segment on any path.
LARGE = encoded({"id": "l-1", "x": "." * 500_000})


def delivery(body: bytes = BODY, *lines: str, path: str = "/webhooks/loopz") -> bytes:
    named = [f"{name}: {value}" for name, value in loopz_headers("location.updated").items()]
    head = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        *named,
        *lines,
        "\r\n",
    ]
    return "\r\n".join(head).encode() + body


QUESTION = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def sender(client: Client) -> AsyncIterator[Sender]:
    """A connection to a running Loopledger."""
    async with connected(client.base_url) as found:
        yield found


@pytest.fixture
def no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no delivery comes by way of aiohttp."""

    async def receive(*_: object) -> None:
        pytest.fail("it went to aiohttp")

    monkeypatch.setattr(Receiver, "_receive", receive)


@pytest.mark.usefixtures("no_requests")
async def test_a_delivery_in_one_piece_takes_the_fast_path(sender: Sender, client: Client) -> None:
    answers = [await sender.send(delivery()) for _ in range(3)]
    assert [(answer.status, answer.json["position"]) for answer in answers] == [
        (200, 1),
        (200, 2),
        (200, 3),
    ]
    assert (await client.get("/v1/events/3/body")).body == BODY
    event = (await client.get("/v1/events/3")).json
    assert ["X-LOOPZ-MERCHANT-ID", "m-1"] in event["headers"]


async def test_the_fast_path_responds_with_the_headers_that_aiohttp_has(
    sender: Sender, client: Client
) -> None:
    for sent in (delivery(), delivery(b"{")):
        on_the_fast_path = await sender.send(sent)
        async with connected(client.base_url) as other:
            other.writer.write(sent[:-1])
            await asyncio.sleep(0.05)
            by_aiohttp = await other.send(sent[-1:])
        names = [sorted(answer.headers) for answer in (on_the_fast_path, by_aiohttp)]
        assert names[0] == names[1]
        for name in ("Content-Type", "Server"):
            assert on_the_fast_path.headers[name] == by_aiohttp.headers[name]


async def test_a_connection_may_bring_deliveries_in_pieces_and_questions_too(
    sender: Sender,
) -> None:
    assert (await sender.send(delivery())).json == {"position": 1}
    assert (await sender.send(delivery(LARGE))).json == {"position": 2}
    assert (await sender.send(delivery())).json == {"position": 3}
    assert len((await sender.send(QUESTION)).json["items"]) == 3
    assert (await sender.send(delivery())).json == {"position": 4}


@pytest.mark.parametrize("count", [2, 5])
async def test_what_is_sent_without_waiting_is_answered_in_order(
    sender: Sender, count: int
) -> None:
    first = await sender.send(delivery() * count)
    rest = [await sender.answer() for _ in range(count - 1)]
    assert [answer.json["position"] for answer in (first, *rest)] == list(range(1, count + 1))


async def test_what_comes_while_a_delivery_is_under_way_is_answered_after_it(
    sender: Sender, connection: "Connection[Record]"
) -> None:
    async with connection.transaction():
        await connection.fetchval(LOG["lock_head"])
        for data in (delivery(), delivery(b"{"), delivery(), QUESTION[:9], QUESTION[9:]):
            sender.writer.write(data)
            await asyncio.sleep(0.05)
    statuses = [(await sender.answer()).status for _ in range(4)]
    assert statuses == [200, 400, 200, 200]


async def test_the_tail_of_what_is_no_delivery_is_never_taken_for_one(
    sender: Sender, client: Client
) -> None:
    """What stands behind a body belongs to the next request, whatever it looks like."""
    whole = delivery()
    answer = await sender.send(whole + whole[:40])
    assert answer.json == {"position": 1}
    assert (await sender.send(whole[40:])).json == {"position": 2}
    bodies = [(await client.get(f"/v1/events/{n}/body")).body for n in (1, 2)]
    assert bodies == [BODY, BODY]


@pytest.mark.usefixtures("no_requests")
async def test_a_refusal_on_the_fast_path_is_a_problem_and_goes_on_record(
    sender: Sender, client: Client
) -> None:
    answer = await sender.send(delivery(b'{"id": nope}'))
    assert (answer.status, answer.json["offset"]) == (400, 7)
    assert answer.headers["Content-Type"] == "application/problem+json"
    unknown = await sender.send(delivery(path="/webhooks/nobody"))
    assert "fitbank, loopz" in unknown.json["detail"]
    assert (await sender.send(delivery())).status == 200
    await asyncio.sleep(1)
    (item,) = (await client.get("/v1/rejections")).json["items"]
    assert (item["cause"], item["address"]) == ("UNPARSABLE", "127.0.0.1")


@pytest.mark.usefixtures("no_requests")
async def test_who_sends_too_much_is_told_so_and_cut_off(start: StartLoopledger) -> None:
    limits = Limits(address_requests_at_once=2, address_requests_per_second=1)
    async with start(limits=limits) as loopledger, connected(loopledger.url) as sender:
        answers = [await sender.send(delivery()) for _ in range(3)]
        assert await sender.closed()
        async with connected(loopledger.url) as again:
            answers.append(await again.send(delivery(b"." * len(BODY))))
        async with connected(loopledger.url) as reader:
            await asyncio.sleep(1)
            question = b"GET /v1/rejections HTTP/1.1\r\nHost: localhost\r\n\r\n"
            (item,) = (await reader.send(question)).json["items"]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert (answers[2].headers["Connection"], answers[2].headers["Retry-After"]) == ("close", "1")
    # A flood is one rejection, whatever stands in the bodies.
    assert (item["cause"], item["count"]) == ("TOO_MANY", 2)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Encoding: gzip"], 415),
        (["Expect: the-unexpected"], 417),
        (["Content-Encoding: identity"], 200),
        (["Upgrade: websocket", "Connection: upgrade"], 200),
        (["Transfer-Encoding: chunked"], 400),
        (["Content-Length: 3"], 400),
        ([" folded: line"], 400),
    ],
)
async def test_whon_the_fast_path_does_not_do_is_done_behind_it(
    sender: Sender, lines: list[str], status: int
) -> None:
    assert (await sender.send(delivery(BODY, *lines))).status == status


async def test_a_body_beyond_the_limit_is_refused(start: StartLoopledger) -> None:
    limits = Limits(body_bytes=len(BODY))
    async with start(limits=limits) as loopledger, connected(loopledger.url) as sender:
        assert (await sender.send(delivery())).status == 200
        assert (await sender.send(delivery(BODY + b" "))).status == 413


async def test_a_query_is_no_part_of_the_path(sender: Sender) -> None:
    for path in ("/webhooks/loopz?a=b", "/webhooks/loopz/secret?a=/b", "/webhooks/loopz"):
        assert (await sender.send(delivery(path=path))).status == 200


@pytest.mark.parametrize("path", ["/webhooks/", "/webhooks//loopz", "/webhooks/?loopz"])
async def test_a_path_to_nowhere_is_not_found(sender: Sender, path: str) -> None:
    assert (await sender.send(delivery(path=path))).status == 404


async def test_a_sender_that_wants_to_close_is_let_go(sender: Sender) -> None:
    answer = await sender.send(delivery(BODY, "Connection: close"))
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert await sender.closed()


async def test_what_is_no_http_is_refused(sender: Sender) -> None:
    assert (await sender.send(b"POST /webhooks/loopz\r\n\r\n")).status == 400


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "KEEPALIVE_SECONDS", 0.2)
    async with start() as loopledger, connected(loopledger.url) as sender:
        async with connected(loopledger.url) as silent, connection.transaction():
            await connection.fetchval(LOG["lock_head"])
            sender.writer.write(delivery())
            assert await silent.closed()
        assert (await sender.answer()).status == 200
        assert await sender.closed()


async def test_a_head_that_does_not_come_to_its_end_is_refused_and_its_connection_closed(
    start: StartLoopledger,
) -> None:
    async with start(limits=Limits(head_seconds=1)) as loopledger:
        for request, size in ((delivery(), 1), (delivery(), 60), (QUESTION, 40)):
            async with connected(loopledger.url) as sender:
                sender.writer.write(request[:size])
                await asyncio.sleep(0.1)
                sender.writer.write(request[size : size + 1])
                answer = await sender.answer()
                assert answer.status == 408
                assert answer.json["type"] == "urn:loopledger:problem:head-too-slow"
                assert answer.headers["Connection"] == "close"
                assert await sender.closed()


async def test_a_connection_that_has_brought_a_head_has_its_time_for_the_rest(
    start: StartLoopledger,
) -> None:
    async with (
        start(limits=Limits(head_seconds=1)) as loopledger,
        connected(loopledger.url) as sender,
    ):
        sent = delivery()
        sender.writer.write(sent[:-1])
        await asyncio.sleep(1.5)
        assert (await sender.send(sent[-1:])).status == 200
        await asyncio.sleep(1.5)
        assert (await sender.send(QUESTION)).status == 200


async def test_more_connections_than_the_limit_are_turned_away(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with (
        start(limits=Limits(connections=2)) as loopledger,
        connected(loopledger.url) as one,
        connected(loopledger.url) as other,
    ):
        async with connection.transaction():
            # One on the fast path, one of aiohttp's: both wait for their commits, so neither gives way.
            await connection.fetchval(LOG["lock_head"])
            one.writer.write(delivery())
            for piece in (delivery()[:-1], delivery()[-1:]):
                other.writer.write(piece)
                await asyncio.sleep(0.05)
            async with connected(loopledger.url) as third:
                answer = await third.answer()
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                assert answer.json["type"] == "urn:loopledger:problem:too-many-connections"
                assert await third.closed()
        assert [(await each.answer()).status for each in (one, other)] == [200, 200]
        # Now the one that was silent longest gives way.
        async with connected(loopledger.url) as fourth:
            assert (await fourth.send(delivery())).status == 200
        assert await one.closed()
        assert (await other.send(delivery())).status == 200


async def test_a_sender_that_leaves_before_its_answer_does_not_take_its_delivery_along(
    client: Client, connection: "Connection[Record]"
) -> None:
    async with connection.transaction():
        await connection.fetchval(LOG["lock_head"])
        async with connected(client.base_url) as sender:
            sender.writer.write(delivery())
            await asyncio.sleep(0.05)
    assert (await client.loopz("location.updated", {"id": "l-2"})).json == {"position": 2}


async def test_stopping_answers_what_is_under_way_and_closes_the_rest(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    stack = AsyncExitStack()
    loopledger = await stack.enter_async_context(start(limits=Limits(drain_seconds=5)))
    async with connected(loopledger.url) as idle, connected(loopledger.url) as sender:
        assert (await idle.send(delivery())).status == 200
        async with connection.transaction():
            await connection.fetchval(LOG["lock_head"])
            sender.writer.write(delivery())
            await asyncio.sleep(0.05)
            stopping = asyncio.create_task(stack.aclose())
            assert await idle.closed()
        answer = await sender.answer()
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        assert await sender.closed()
        await stopping


class Transport(asyncio.Transport):
    """A transport to nowhere, which says how it is used."""

    def __init__(self) -> None:
        super().__init__()
        self._reads = True
        self.written = b""

    def pause_reading(self) -> None:
        """Read no more."""
        self._reads = False

    def resume_reading(self) -> None:
        """Read."""
        self._reads = True

    def reads(self) -> bool:
        """Whether it would read."""
        return self._reads

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        """It is told what is unread."""
        return 0

    def is_closing(self) -> bool:
        """Never."""
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep what is written."""
        self.written += data


class Slow:
    """A receiver that gives the outcome when the test does."""

    counts = SimpleNamespace(count_accepted=lambda _: None)

    def submit(self, _: Delivery, on_outcome: OnOutcome) -> bool:
        """Receive a delivery."""
        self.on_outcome = on_outcome
        return False


async def test_from_a_sender_that_does_not_read_its_answers_nothing_more_is_read() -> None:
    receiver, transport = Slow(), Transport()
    aiohttp = SimpleNamespace(request_handler=None, connections=[])
    limiter = ConnectionLimiter(Limits(), str, lambda _: False)
    server = DeliveryServer(
        cast("Receiver", receiver), cast("Any", aiohttp), limiter, idle_seconds=60
    )
    protocol = server()
    protocol.connection_made(transport)
    protocol.data_received(delivery())
    protocol.pause_writing()
    protocol.data_received(delivery())
    receiver.on_outcome(Appended(1, NOON))
    assert not transport.reads()
    protocol.resume_writing()
    assert transport.reads()
    protocol.pause_writing()
    protocol.resume_writing()
    assert not transport.reads()
    receiver.on_outcome(Appended(2, NOON))
    assert transport.reads()
    assert transport.written.count(b"HTTP/1.1 200 OK") == 2
    protocol.connection_lost(None)


async def test_who_is_told_to_come_again_may_have_sent_the_next_delivery_already(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with start(limits=Limits(append_seconds=0.4)) as loopledger, AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(connected(loopledger.url)) for _ in range(4)]
        async with connection.transaction():
            await connection.fetchval(LOG["lock_head"])
            # The first is in flight; the others wait in the queue.
            for _ in range(2):
                for sender in senders:
                    sender.writer.write(delivery())
                    await asyncio.sleep(0.02)
            statuses = [(await sender.answer()).status for sender in senders * 2]
        assert statuses == [503] * 8


async def test_a_sender_that_closes_its_half_after_a_delivery_gets_its_answer(
    start: StartLoopledger,
) -> None:
    async with start() as loopledger, connected(loopledger.url) as sender:
        sender.writer.write(delivery())
        sender.writer.write_eof()
        assert (await sender.answer()).status == 200
        assert await sender.reader.read() == b""


async def test_a_sender_that_closes_its_half_gets_every_answer_however_its_requests_came(
    start: StartLoopledger,
) -> None:
    question = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with start() as loopledger, connected(loopledger.url) as sender:
        data = delivery() + question + delivery()
        sender.writer.write(data[:-5])
        await asyncio.sleep(0.05)
        sender.writer.write(data[-5:])
        sender.writer.write_eof()
        assert [(await sender.answer()).status for _ in range(3)] == [200] * 3
        assert await sender.reader.read() == b""


@pytest.mark.parametrize("cut", [20, -5])
async def test_a_sender_that_closes_its_half_in_a_request_is_not_waited_for(
    start: StartLoopledger, cut: int
) -> None:
    async with start() as loopledger, connected(loopledger.url) as sender:
        sender.writer.write(delivery() + delivery()[:cut])
        sender.writer.write_eof()
        assert (await sender.answer()).status == 200
        assert await sender.closed()
