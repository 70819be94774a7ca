"""The benchmarks run and say what they measured; how fast anything was is not looked at."""

import hashlib
import hmac
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import test_utils, web

from benchmarks.harness.api import HeadCheck
from benchmarks.harness.command import BenchmarkError
from benchmarks.harness.report import percentile
from benchmarks.harness.signer import SIGNATURE_HEADER, Signer
from benchmarks.ingest import wrk
from benchmarks.ingest.report import Run, ratios_of, results
from benchmarks.ingest.wrk import gift_card_updates, write_requests
from eventstore.query.cursor import Page
from tests.support import NOON, ROOT
from web.api.projections import ProjectionSummary

INGEST = "benchmarks.ingest --seconds 0.3 --connections 4 --rounds 1 --against . --json"
LAG = "benchmarks.lag --seconds 1 --rate 50 --json"
INSTALL_WRK = (
    "benchmark: wrk, which sends the load, is not installed: apt-get install wrk (Debian, Ubuntu), "
    "brew install wrk (macOS), or build it from github.com/wg/wrk\n"
)


def start(command: str, path: str = os.environ["PATH"]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """Both benchmarks at once: it is not their numbers that matter here."""
    processes = {command: start(command) for command in (INGEST, LAG)}
    yield processes
    for process in processes.values():
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def reported(process: "subprocess.Popen[str]") -> Any:  # noqa: ANN401 - JSON
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output)


def test_ingest_measures_every_server_and_finds_what_was_acknowledged_on_record(
    running: dict[str, "subprocess.Popen[str]"],
) -> None:
    if shutil.which("wrk") is None:
        output, errors = running[INGEST].communicate(timeout=60)
        assert (running[INGEST].returncode, output, errors) == (2, "", INSTALL_WRK)
        return
    report = reported(running[INGEST])
    there = all(importlib.util.find_spec(name) for name in ("eventsourcing", "psycopg"))
    missing = set() if there else {"eventsourcing"}
    servers = ("limit", "loopledger", "insert", "eventsourcing", "against")
    expected = [server for server in servers if server not in missing]
    assert set(report["left_out"]) == missing
    assert [result["server"] for result in report["results"]] == expected
    assert all(result["deliveries_per_second"] > 0 for result in report["results"])
    acknowledged = report["acknowledged"]["loopledger"]
    assert 0 < acknowledged <= report["heads"]["loopledger"] <= acknowledged + 4
    assert {ratio["beside"] for ratio in report["ratios"]} == {*expected} - {"loopledger"}
    assert report["fsync"] is True


def test_lag_waits_for_every_sampled_state(running: dict[str, "subprocess.Popen[str]"]) -> None:
    report = reported(running[LAG])
    assert report["answered"]["count"] == 50
    assert report["visible"]["count"] == 50
    assert 0 < report["visible"]["p50_ms"] <= report["visible"]["max_ms"]


def test_without_wrk_it_says_what_to_install() -> None:
    process = start(INGEST, path="/nonexistent")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (2, "", INSTALL_WRK)


def test_the_script_of_wrk_reads_what_is_written_for_it(tmp_path: Path) -> None:
    signer = Signer()
    made = list(gift_card_updates(1, 20))
    write_requests(tmp_path / "requests", made, signer)
    rest = (tmp_path / "requests").read_bytes()
    for delivery in made:
        length, _, rest = rest.partition(b"\n")
        request, rest = rest[: int(length)], rest[int(length) :]
        head, _, body = request.partition(b"\r\n\r\n")
        signature = hmac.new(signer.secret.encode(), body, hashlib.sha256).hexdigest()
        assert body == delivery.body
        assert f"{SIGNATURE_HEADER}: sha256={signature}".encode() in head.split(b"\r\n")
        assert re.search(rb"^Content-Length: %d\r?$" % len(body), head, re.MULTILINE)
    assert rest == b""
    assert len({delivery.body for delivery in made}) > 10


def test_a_load_lasts_whole_seconds() -> None:
    assert [wrk.whole_seconds(seconds) for seconds in (0.3, 1, 1.1, 5)] == [1, 1, 2, 5]


@asynccontextmanager
async def told(**changes: object) -> AsyncIterator[str]:
    """A Loopledger that says of itself that it has 10 events on record, all folded, but for `changes`."""
    status = ProjectionSummary(
        name="p",
        generation=1,
        status="live",
        version=1,
        checkpoint=10,
        head=10,
        lag=0,
        stuck=False,
        stale=False,
        folded=10,
        ignored=0,
        quarantined=0,
        error=None,
        created_at=NOON,
        updated_at=NOON,
        retired_at=None,
        advice=None,
    )
    page: Page[ProjectionSummary, None] = Page([msgspec.structs.replace(status, **changes)], None)

    async def list_projections(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(page))

    app = web.Application()
    app.router.add_get("/v1/projections", list_projections)
    async with test_utils.TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.mark.parametrize(("acknowledged", "in_flight"), [(10, 0), (8, 2), (10, 4)])
async def test_what_was_in_flight_when_the_load_ended_may_be_on_record(
    acknowledged: int, in_flight: int
) -> None:
    async with told() as url:
        found = HeadCheck(url, 0)
        await found.settle(acknowledged, in_flight)
    assert (found.head, found.acknowledged) == (10, acknowledged)


@pytest.mark.parametrize(
    ("acknowledged", "changes", "problem"),
    [
        (11, {}, "11 deliveries were acknowledged"),
        (7, {}, "the head moved from 0 to 10"),
        (10, {"folded": 9}, "not every event is accounted for"),
        (10, {"folded": 9, "quarantined": 1}, "not every event is accounted for"),
        (10, {"error": "broken"}, "held up"),
    ],
)
async def test_what_does_not_add_up_is_an_error(
    acknowledged: int, changes: dict[str, object], problem: str
) -> None:
    async with told(**changes) as url:
        with pytest.raises(BenchmarkError, match=problem):
            await HeadCheck(url, 0).settle(acknowledged, in_flight=2)


def run_of(server: str, round_: int, rate: float) -> Run:
    return Run(
        server=server,
        connections=4,
        round=round_,
        answers=1,
        deliveries_per_second=rate,
        p50_ms=rate,
        p99_ms=rate,
        cpu_http_us=rate,
        cpu_all_us=rate,
        other_cpus=0,
        folded_after_seconds=None,
    )


def test_medians_are_of_the_rounds_and_ratios_of_the_same_round() -> None:
    rates = {"limit": (100.0, 10.0, 50.0), "loopledger": (50.0, 10.0, 10.0)}
    runs = [
        run_of(server, round_, rate)
        for server, each in rates.items()
        for round_, rate in enumerate(each, 1)
    ]
    assert [(r.server, r.deliveries_per_second) for r in results(runs)] == [
        ("limit", 50.0),
        ("loopledger", 10.0),
    ]
    assert [(r.name, r.beside, r.ratio) for r in ratios_of(runs)] == [("loopledger", "limit", 0.5)]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([], 0.5)) == (50, 99, 0)
