"""The metrics of a server of several processes: sums over all of them, which a kill does not make less."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from eventstore.keys import MAX_AGE
from tests.support.metrics import Scrape, parse, total
from tests.support.server_process import ServerProcess, patiently

ALL = {"parent", "http-1", "http-2", "projecting"}

COUNTERS = ("_total", "_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def server(public_directory: Path) -> Iterator[ServerProcess]:
    found = ServerProcess(public_directory / "metrics", arguments=["--workers", "2"])
    yield found
    found.stop()


def scrape(server: ServerProcess) -> Scrape:
    with urlopen(f"{server.url}/metrics", timeout=10) as response:  # noqa: S310 - our own address
        return parse(response.read().decode())


def accepted(server: ServerProcess) -> float:
    return total(scrape(server), "deliveries_total", outcome="accepted")


def scrape_with(server: ServerProcess, sent: int) -> Scrape:
    """What is answered once all that was sent is counted: a busy worker may report a moment late."""
    deadline = time.monotonic() + 10
    while True:
        found: Scrape = patiently(lambda: scrape(server))
        counted = total(found, "deliveries_total", outcome="accepted")
        if counted == sent or time.monotonic() > deadline:
            assert counted == sent
            return found
        time.sleep(0.1)


def deliver(server: ServerProcess, count: int) -> None:
    """Deliver, each on a connection of its own: any worker takes it."""
    for number in range(count):
        patiently(lambda number=number: server.deliver(f"l-{number}"))  # type: ignore[misc]


def test_a_kill_of_a_worker_makes_no_sum_less_and_takes_its_gauges_away(
    server: ServerProcess,
) -> None:
    deliver(server, 60)
    sent = 60
    before = scrape_with(server, sent)
    assert total(before, "append_batch_events_sum") == sent
    for _ in range(3):
        pid = server.workers("http")[0]
        os.kill(pid, signal.SIGKILL)
        after = patiently(lambda: scrape(server))
        fallen = {
            name: (value, after.get((name, labels)))
            for (name, labels), value in before.items()
            if name.endswith(COUNTERS) and after.get((name, labels), -1) < value
        }
        assert fallen == {}
        assert total(after, "deliveries_total", outcome="accepted") == sent
        deadline = time.monotonic() + 20
        while len(server.workers("http")) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        deliver(server, 20)
        sent += 20
        before = scrape_with(server, sent)
    assert total(before, "worker_restarts_total") == 3
    # Of those that were killed nothing is left that they had, as opposed to what they did.
    assert total(before, "connections_limit") <= 2 * 10_000


def test_every_worker_answers_for_all_processes(server: ServerProcess) -> None:
    deadline = time.monotonic() + 20
    # One that was killed before takes a while to start.
    while processes(server) != ALL and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [processes(server) for _ in range(10)] == [ALL] * 10


def processes(server: ServerProcess) -> set[str]:
    """The processes whose values are in an answer."""
    return {
        dict(labels)["process"]
        for name, labels in scrape(server)
        if name == "loopledger_process_resident_memory_bytes"
    }


def test_while_postgres_is_away_what_the_processes_count_is_answered(
    server: ServerProcess,
) -> None:
    before = accepted(server)
    # Longer than keys that were read count.
    time.sleep(MAX_AGE)
    os.kill(server.postmaster_pid(), signal.SIGKILL)
    assert [accepted(server) for _ in range(5)] == [before] * 5


def test_a_process_that_hangs_holds_no_answer_up_for_long(server: ServerProcess) -> None:
    (projecting,) = server.workers("projecting")
    process = psutil.Process(projecting)
    process.suspend()
    try:
        began = time.monotonic()
        found = scrape(server)
        seconds = time.monotonic() - began
    finally:
        process.resume()
    assert seconds < 3
    assert total(found, "process_resident_memory_bytes", process="projecting") > 0
