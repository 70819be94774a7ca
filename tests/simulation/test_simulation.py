import argparse
import asyncio
import itertools
import json
import os
import signal
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from aiohttp import test_utils, web
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import simulate
from simulation import client
from simulation.client import send
from simulation.deliveries import Delivery, Rates, deliveries

seeds = st.integers(0, 2**32)
counts = st.integers(0, 400)
few = settings(max_examples=25, deadline=None)
in_order = Rates(duplicate=0, late=0)
plain = Rates(duplicate=0, late=0, wrapped=0, camel_case=0, only_id=0)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def by_thing(sent: list[Delivery]) -> dict[str, list[Delivery]]:
    things: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in sent:
        things[delivery.thing].append(delivery)
    return things


def topic(delivery: Delivery) -> str:
    return delivery.headers.get("X-LOOPZ-WEBHOOK-TOPIC", "fitbank")


def content(delivery: Delivery) -> dict[str, Any]:
    """Return the body's object, out of its wrapper if it has one."""
    body = json.loads(delivery.body)
    assert isinstance(body, dict)
    inner = next(iter(body.values()))
    return inner if len(body) == 1 and isinstance(inner, dict) else body


def provider_time(delivery: Delivery) -> datetime | None:
    body = content(delivery)
    text = body.get("updated_on") or body.get("updatedAt") or body.get("Date")
    return datetime.fromisoformat(text) if text else None


# What is generated


@few
@given(seeds, counts)
def test_the_same_seed_gives_the_same_bytes_and_exactly_as_many_as_asked(
    seed: int, count: int
) -> None:
    once, again = list(deliveries(seed, count)), list(deliveries(seed, count))
    assert once == again
    assert len(once) == count


@few
@given(seeds)
def test_a_shorter_run_is_the_beginning_of_a_longer_one(seed: int) -> None:
    assert list(deliveries(seed, 50)) == list(itertools.islice(deliveries(seed, 500), 50))


@few
@given(seeds)
def test_another_seed_gives_other_things(seed: int) -> None:
    here = {delivery.thing for delivery in deliveries(seed, 300)}
    there = {delivery.thing for delivery in deliveries(seed + 1, 300)}
    assert not here & there


@few
@given(seeds, counts)
def test_every_body_is_a_json_object_and_every_delivery_says_where_it_belongs(
    seed: int, count: int
) -> None:
    for delivery in deliveries(seed, count):
        assert content(delivery)
        assert delivery.headers["Content-Type"].startswith("application/json")
        provider = delivery.thing.split("/")[0]
        assert delivery.path == f"/webhooks/{provider}"
        loopz_headers = sum(name.startswith("X-LOOPZ-") for name in delivery.headers)
        assert loopz_headers == (4 if provider == "loopz" else 0)


@few
@given(seeds)
def test_a_balance_is_never_negative_and_equals_what_its_completed_transactions_add_up_to(
    seed: int,
) -> None:
    added: Counter[str] = Counter()
    for delivery in deliveries(seed, 2_000, plain):
        body = content(delivery)
        if topic(delivery).startswith("transaction.") and body["status"] == "COMPLETED":
            sign = -1 if body["type"] == "REDEEM" else 1
            added[body["gift_card_id"]] += sign * body["amount"]["amount"]
        elif topic(delivery) == "gift-card.updated":
            assert body["balance"]["amount"] == added[body["id"]] >= 0


@few
@given(seeds)
def test_a_duplicate_equals_the_delivery_before_it_of_the_same_thing(seed: int) -> None:
    sent = list(deliveries(seed, 1_000, Rates(duplicate=0.3, late=0.3)))
    repeats = 0
    for history in by_thing(sent).values():
        assert history[0].note != "duplicate"
        for before, after in itertools.pairwise(history):
            if after.note == "duplicate":
                repeats += 1
                assert (after.headers, after.body) == (before.headers, before.body)
    assert repeats > 100


@few
@given(seeds)
def test_without_late_ones_the_time_of_a_thing_only_goes_forward(seed: int) -> None:
    for history in by_thing(list(deliveries(seed, 1_000, in_order))).values():
        times = [time for delivery in history if (time := provider_time(delivery))]
        assert all(before < after for before, after in itertools.pairwise(times))


@few
@given(seeds)
def test_a_late_delivery_comes_right_after_a_newer_one_of_its_thing(seed: int) -> None:
    late = 0
    for history in by_thing(list(deliveries(seed, 1_000, Rates(duplicate=0, late=0.3)))).values():
        for newer, older in itertools.pairwise(history):
            if older.note == "late":
                late += 1
                then, before = provider_time(newer), provider_time(older)
                assert then is None or before is None or before < then
        assert history[0].note != "late"
    assert late > 100


@pytest.mark.parametrize(("duplicate", "late", "fitbank"), [(0.02, 0.02, 0.25), (0.1, 0.2, 0.6)])
def test_the_shares_come_out_near_what_was_stated(
    duplicate: float, late: float, fitbank: float
) -> None:
    rates = Rates(duplicate=duplicate, late=late, fitbank=fitbank)
    sent = list(deliveries(1, 20_000, rates))
    notes = Counter(delivery.note for delivery in sent)
    assert notes["duplicate"] / 20_000 == pytest.approx(duplicate, rel=0.2)
    assert notes["late"] / 20_000 == pytest.approx(late, rel=0.2)
    from_fitbank = sum(topic(delivery) == "fitbank" for delivery in sent)
    assert from_fitbank / 20_000 == pytest.approx(fitbank, rel=0.05)


def test_every_topic_method_status_and_shape_of_the_providers_occurs() -> None:
    sent = list(deliveries(1, 20_000))
    assert {topic(delivery) for delivery in sent} == {
        "fitbank",
        *(f"gift-card.{what}" for what in ("created", "updated", "deleted")),
        *(f"transaction.{what}" for what in ("created", "updated", "deleted")),
        *(f"location.{what}" for what in ("created", "updated")),
    }
    bodies = [content(delivery) for delivery in sent if topic(delivery) == "fitbank"]
    assert {body["Method"] for body in bodies} == {
        "UpdatePurchaseClosedLoopStatusMongo",
        "UpdateDepositClosedLoopStatusMongo",
        "UpdateWithdrawalClosedLoopStatusMongo",
    }
    assert {body["Status"] for body in bodies} == {
        *("Created", "CanBePreAuthorized", "Authorized", "PreSettled", "Settled"),
        *("Canceled", "Error"),
    }
    assert {type(body["BusinessUnitId"]) for body in bodies} == {int, str}
    assert {type(body["TotalValue"]) for body in bodies} == {float, str}
    assert {body["Date"][-6:] for body in bodies} > {"-03:00"}
    names = {name for delivery in sent for name in json.loads(delivery.body)}
    assert names > {"gift_card", "transaction", "location", "giftCardId", "gift_card_id"}
    assert any(len(content(d)) == 1 for d in sent if topic(d) == "gift-card.deleted")


def test_many_things_are_under_way_at_once() -> None:
    """Between two deliveries of a thing there are others: lives do not follow one another."""
    sent = list(deliveries(1, 5_000, in_order))
    neighbours = sum(before.thing == after.thing for before, after in itertools.pairwise(sent))
    assert neighbours < 100


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"late is a share from 0 to 1, not 1.5"):
        Rates(late=1.5)


# What is sent


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """Serve every POST with the handler, on a free port of the loopback address."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    async with test_utils.TestServer(app) as running:
        yield str(running.make_url("/"))


def accept_into(received: list[tuple[str, bytes]]) -> Handler:
    async def accept(request: web.Request) -> web.Response:
        received.append((request.path, await request.read()))
        return web.json_response({"position": len(received)})

    return accept


async def test_all_are_accepted_and_those_of_one_thing_arrive_in_order() -> None:
    received: list[tuple[str, bytes]] = []
    to_send = list(deliveries(1, 1_000))
    progress: list[int] = []
    async with server(accept_into(received)) as url:
        summary = await send(url, to_send, connections=8, on_progress=progress.append)
    assert (summary.sent, summary.accepted, summary.refused) == (1_000, 1_000, {})
    assert summary.retried == 0
    assert summary.last_position == 1_000
    assert summary.duplicates == sum(delivery.note == "duplicate" for delivery in to_send)
    assert summary.late == sum(delivery.note == "late" for delivery in to_send)
    assert 0 < summary.p50_ms <= summary.p99_ms
    assert summary.deliveries_per_second == pytest.approx(1_000 / summary.seconds)
    assert progress == list(range(1, 1_001))
    assert Counter(received) == Counter((d.path, d.body) for d in to_send)
    things = {delivery.body: delivery.thing for delivery in to_send}
    arrived: dict[str, list[bytes]] = defaultdict(list)
    for _, body in received:
        arrived[things[body]].append(body)
    assert arrived == {
        thing: [delivery.body for delivery in history]
        for thing, history in by_thing(to_send).items()
    }


async def test_the_headers_of_a_delivery_are_sent_and_hardly_any_others() -> None:
    seen: list[set[str]] = []

    async def accept(request: web.Request) -> web.Response:
        seen.append(set(request.headers))
        return web.json_response({"position": 1})

    (delivery,) = deliveries(1, 1, Rates(fitbank=0))
    async with server(accept) as url:
        await send(url, [delivery])
    assert seen == [{*delivery.headers, "Host", "Content-Length"}]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_is_busy_is_asked_again_after_the_time_it_names(status: int) -> None:
    asked: Counter[bytes] = Counter()

    async def busy_at_first(request: web.Request) -> web.Response:
        body = await request.read()
        asked[body] += 1
        if asked[body] == 1:
            return web.Response(status=status, headers={"Retry-After": "1"})
        return web.json_response({"position": len(asked)})

    async with server(busy_at_first) as url:
        summary = await send(url, deliveries(1, 1))
    assert (summary.accepted, summary.retried, summary.refused) == (1, 1, {})
    assert summary.p50_ms >= 1_000


async def test_a_connection_that_breaks_is_tried_again() -> None:
    broken = 0

    async def break_once(request: web.Request) -> web.Response:
        nonlocal broken
        if not broken:
            broken += 1
            assert request.transport
            request.transport.close()
        return web.json_response({"position": 1})

    async with server(break_once) as url:
        summary = await send(url, deliveries(1, 5), connections=1)
    assert (summary.accepted, summary.retried, summary.refused) == (5, 1, {})


async def test_a_delivery_is_given_up_when_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GIVE_UP_SECONDS", 0.5)

    async def busy(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async with server(busy) as url:
        summary = await send(url, deliveries(1, 2), connections=2)
    assert (summary.accepted, summary.refused) == (0, {"503": 2})
    assert summary.retried >= 2


async def test_a_refusal_is_counted_by_its_status_and_not_tried_again() -> None:
    received = 0

    async def refuse_every_other(_: web.Request) -> web.Response:
        nonlocal received
        received += 1
        if received % 2:
            return web.Response(status=400)
        return web.json_response({"position": received})

    async with server(refuse_every_other) as url:
        summary = await send(url, deliveries(1, 10), connections=1)
    assert (summary.sent, summary.accepted, summary.refused) == (10, 5, {"400": 5})
    assert received == 10


async def test_an_answer_that_is_not_the_servers_own_counts_as_refused() -> None:
    async def welcome(_: web.Request) -> web.Response:
        return web.Response(text="Welcome!")

    async with server(welcome) as url:
        summary = await send(url, deliveries(1, 1))
    assert summary.refused == {"a 200 without a position": 1}


async def test_a_stated_rate_is_kept() -> None:
    async with server(accept_into([])) as url:
        summary = await send(url, deliveries(1, 101), rate=200)
    assert summary.seconds == pytest.approx(0.5, abs=0.2)


async def test_with_a_rate_a_server_that_stalls_cannot_hide_how_long_it_kept_others_waiting() -> (
    None
):
    received = 0

    async def stall_once(_: web.Request) -> web.Response:
        nonlocal received
        received += 1
        if received == 1:
            await asyncio.sleep(0.5)
        return web.json_response({"position": received})

    async with server(stall_once) as url:
        summary = await send(url, deliveries(1, 20), connections=1, rate=100)
    assert summary.p50_ms > 250


async def test_a_run_that_is_stopped_sums_up_what_was_answered() -> None:
    stop = asyncio.Event()

    def stop_at_ten(answered: int) -> None:
        if answered == 10:
            stop.set()

    async with server(accept_into([])) as url:
        endless = deliveries(1, 10**9)
        summary = await send(url, endless, connections=2, on_progress=stop_at_ten, stop=stop)
    assert 10 <= summary.sent == summary.accepted < 100


# The command


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    return parser.parse_args(given)


async def simulated(*given: str) -> int:
    """Run the command in the loop of the test, where the test's server runs too."""
    args = arguments(*given)
    return await simulate._simulate(args, args.url)


async def test_the_command_exits_with_0_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    async with server(accept_into([])) as url:
        assert await simulated("--url", url, "--deliveries", "50", "--seed", "7") == 0
    out = capsys.readouterr().out
    assert "--seed 7" in out.splitlines()[0]
    assert "accepted" in out
    assert f"curl {url.rstrip('/')}/v1/projections" in out.splitlines()[-1]


async def test_as_json_the_summary_is_all_that_is_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with server(accept_into([])) as url:
        assert await simulated("--url", url, "--deliveries", "50", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["accepted"] == facts["last_position"] == 50
    assert facts["deliveries_per_second"] > 0


async def test_the_command_exits_with_1_if_something_was_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=401)

    async with server(refuse) as url:
        assert await simulated("--url", url, "--deliveries", "3") == 1
    assert "401" in capsys.readouterr().out


def test_the_command_exits_with_2_if_no_server_can_be_reached(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as bound:  # bound but not listening: nothing else can answer there
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert simulate.run(arguments("--url", url)) == 2
    said = capsys.readouterr()
    assert "make run" in said.err
    assert not said.out


async def test_an_interrupted_command_exits_with_130_and_a_partial_summary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    received: list[tuple[str, bytes]] = []
    accept = accept_into(received)

    async def interrupt_at_fifty(request: web.Request) -> web.StreamResponse:
        if len(received) == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return await accept(request)

    async with server(interrupt_at_fifty) as url:
        assert await simulated("--url", url, "--deliveries", "1000000", "--json") == 130
    assert 0 < json.loads(capsys.readouterr().out)["sent"] < 1_000_000


async def test_off_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "LINE_SECONDS", 0.1)
    async with server(accept_into([])) as url:
        await simulated("--url", url, "--deliveries", "60", "--rate", "200")
    assert "of 60 sent" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--deliveries", "0"),
        ("--connections", "none"),
        ("--late", "1.1"),
        ("--duplicates", "nan"),
        ("--rate", "0"),
        ("--rate", "fast"),
        ("--url", "localhost:8080"),
        ("--url", "http://127.0.0.1:port"),
    ],
)
def test_a_wrong_argument_is_named(
    wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        arguments(*wrong)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert wrong[0] in said
    assert wrong[1] in said
