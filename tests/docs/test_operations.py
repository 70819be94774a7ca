"""The page for operators is executed: a bug is mended as it says, and who sends and asks meanwhile sees no error."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import asyncpg
import pytest

from eventstore.postgres.cluster import embedded_dsn
from eventstore.postgres.roles import READER
from tests.support import ROOT, encoded, loopz_headers
from tests.support.documented import follow, steps
from tests.support.server_process import ServerProcess

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
STEPS = steps(PAGE)

# A command of the page that is a restart: settings, then `make run`.
RESTART = re.compile(r"((?:LOOPLEDGER_\w+=\S+ )*)make run")

CARD = "/v1/gift-cards/watched?merchant_id=m-1"
PURCHASE = "/v1/transactions/watched?merchant_id=66"

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Site:
    """A server that is stopped, and started again with other settings."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.server = ServerProcess(data_dir)
        self._restarting = False

    def restart(self, settings: str) -> None:
        """Stop it, and start it with these: "NAME=value NAME=value "."""
        environ = dict(setting.split("=", 1) for setting in settings.split())
        self._restarting = True
        try:
            self.server.stop()
            self.server = ServerProcess(self.data_dir, environ=environ)
        finally:
            self._restarting = False

    def ask(self, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:  # noqa: ANN401 - JSON
        """Send a request; gives the answer, which has to be a 200. While it is restarted it may be out of reach."""
        data = None if body is None else encoded(body)
        while True:
            excused = self._restarting
            request = Request(self.server.url + path, data=data, headers=headers or {})  # noqa: S310 - our own address
            try:
                with urlopen(request, timeout=20) as response:  # noqa: S310 - our own address
                    assert response.status == HTTPStatus.OK
                    return json.load(response)
            except HTTPError as error:
                message = f"{path}: {error.code} {error.read().decode()}"
                raise AssertionError(message) from error
            except OSError:
                if not (excused or self._restarting):
                    raise
            time.sleep(0.05)


class Traffic:
    """A provider and readers, for as long as it flows: all are answered, and no answer goes back in time."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._over = threading.Event()
        self._failures: list[Exception] = []
        self.rounds = 0

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Send and ask while the block runs. Raises what went wrong."""
        sending = self._send()
        next(sending)
        loops = [sending, self._watch_card(), self._watch_purchase(), self._watch_lists()]
        threads = [threading.Thread(target=self._repeat, args=(loop,)) for loop in loops]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        if self._failures:
            message = "an answer was wrong, or none came"
            raise ExceptionGroup(message, self._failures)

    def _repeat(self, loop: Iterator[None]) -> None:
        try:
            while not self._over.wait(0.1):
                next(loop)
                self.rounds += 1
        except Exception as error:  # noqa: BLE001 - who waits for the thread raises it
            self._failures.append(error)

    def _send(self) -> Iterator[None]:
        """Ever higher amounts; who waits for what was acknowledged reads just that."""
        for number in count(1):
            at = (NOON + timedelta(seconds=number)).isoformat()
            balance = {"amount": number, "currencyCode": "EUR"}
            card = {"id": "watched", "updated_on": at, "balance": balance}
            purchase = {
                "Method": "UpdatePurchaseClosedLoopStatusMongo",
                "BusinessUnitId": 66,
                "TransactionIdentifier": "watched",
                "Status": "Authorized" if number % 2 else "PreSettled",
                "Date": at,
                "TotalValue": str(number),
            }
            self._site.ask("/webhooks/loopz", card, loopz_headers("gift-card.updated"))
            position = self._site.ask("/webhooks/fitbank", purchase)["position"]
            assert self._site.ask(f"{CARD}&at_least={position}")["balance"] == number
            amount = self._site.ask(f"{PURCHASE}&at_least={position}")["amount"]
            assert Decimal(amount) == number
            yield

    def _watch_card(self) -> Iterator[None]:
        before = (0, 0)
        while True:
            card = self._site.ask(CARD)
            now = (card["balance"], card["position"])
            assert now >= before
            before = now
            yield

    def _watch_purchase(self) -> Iterator[None]:
        before = (Decimal(0), 0)
        while True:
            purchase = self._site.ask(PURCHASE)
            now = (Decimal(purchase["amount"]), purchase["position"])
            assert now >= before
            before = now
            yield

    def _watch_lists(self) -> Iterator[None]:
        while True:
            for kind in ("gift-cards", "transactions", "projections", "events"):
                assert self._site.ask(f"/v1/{kind}")["items"]
            yield


@pytest.fixture(scope="module")
def site(public_directory: Path) -> Iterator[Site]:
    found = Site(public_directory / "operations")
    yield found
    if found.server.running:
        found.server.stop()


@pytest.fixture(scope="module")
def traffic(site: Site) -> Traffic:
    """The traffic of a site that has seen all the steps of the page."""
    traffic = Traffic(site)
    with traffic.flowing():
        for step in STEPS:
            if restart := RESTART.fullmatch(step.command):
                site.restart(restart[1])
            else:
                follow(step, site.server.url, site.data_dir)
    return traffic


def test_a_bug_is_mended_as_the_page_says_and_nobody_sees_an_error(traffic: Traffic) -> None:
    assert sum(RESTART.fullmatch(step.command) is not None for step in STEPS) == 1
    assert traffic.rounds > 100


@pytest.mark.usefixtures("traffic")
async def test_the_statements_of_the_page_say_what_the_api_says(site: Site) -> None:
    """On what the steps left behind; the day that they ask about is yet to come."""
    connection = await asyncpg.connect(embedded_dsn(site.data_dir, READER))
    later = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
    try:
        answers = [
            await connection.fetch(re.sub(r"'\d{4}-\d\d-\d\d'", f"'{later}'", statement))
            for statement in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
        ]
    finally:
        await connection.close()
    assert all(answers)
    worth = next(rows for rows in answers if "delta" in rows[0])
    (card,) = re.findall(r"gift-card/(\S+)' AND", PAGE)
    assert worth[0]["after"] == site.server.get(f"/v1/gift-cards/{card}")["balance"]
    assert worth[0]["before"] + worth[0]["delta"] == worth[0]["after"]
