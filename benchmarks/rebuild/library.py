"""The eventsourcing library folding the same events: `python -m benchmarks.rebuild.library LOG TARGET EVENTS`.

It copies the first EVENTS of a log into the library's own tables, says `ready`, and waits for a line. Then its
ProjectionRunner projects the gift cards as its documentation shows, with the very functions that Loopledger folds with:
a view on the library's tracking recorder, which for each event moves the position and writes the state in one
transaction. It reads the one topic that it needs. In the end it says how many seconds that took.
"""

import importlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec

from benchmarks.harness.command import fail
from benchmarks.harness.postgres import parameters_of
from benchmarks.rebuild.queries import QUERIES
from eventstore.log.events import Event
from projections.gift_cards import GiftCard, evolve
from providers import load_providers
from providers.facts import GiftCardFact

FIELDS = [field.name for field in msgspec.structs.fields(GiftCard)]
LOAD = QUERIES["library_state"].format(names=", ".join(FIELDS))
SAVE = QUERIES["library_save"].format(
    names=", ".join(FIELDS),
    values=", ".join(["%s"] * len(FIELDS)),
    changes=", ".join(f"{name} = excluded.{name}" for name in FIELDS),
)

BATCH = 100
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Received:
    """A delivery, as the library would be given it: what its transcoder does not know is text."""

    originator_id: str
    originator_version: int
    position: int
    event_id: str
    provider: str
    topic: str
    merchant_id: str
    program_id: str | None
    received_at: str
    body: str

    def event(self) -> Event:
        """What Loopledger folds."""
        received_at = datetime.fromisoformat(self.received_at)
        return Event(
            position=self.position,
            event_id=UUID(self.event_id),
            provider=self.provider,
            topic=self.topic,
            merchant_id=self.merchant_id,
            program_id=self.program_id,
            stream=self.originator_id,
            received_at=received_at,
            recorded_at=received_at,
            body=self.body.encode(),
        )


class GiftCardReceived(Received):
    """One that concerns a gift card."""


class OtherReceived(Received):
    """One that does not."""


def library(name: str) -> Any:  # noqa: ANN401 - it need not be installed
    """A module of the library."""
    return importlib.import_module(f"eventsourcing.{name}")


def settings(dsn: str) -> dict[str, str]:
    """How the library is told of a database."""
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "ORIGINATOR_ID_TYPE": "text",
        **{f"POSTGRES_{name.upper()}": value for name, value in parameters_of(dsn).items()},
    }


def fill(application: Any, log: str, events: int) -> tuple[int, int]:  # noqa: ANN401 - of the library
    """Put the first events of a log into the library's; gives back their number and the last id of a gift card's."""
    providers = load_providers({})
    psycopg: Any = importlib.import_module("psycopg")
    rows: Any = importlib.import_module("psycopg.rows")
    count, last = 0, 0
    with (
        psycopg.connect(log, row_factory=rows.dict_row) as connection,
        connection.cursor("events") as cursor,
    ):
        cursor.execute(QUERIES["library_events"], (events,))
        for batch in _batches(cursor):
            received = [
                GiftCardReceived(**row)
                if providers[row["provider"]].topics.get(row["topic"]) is GiftCardFact
                else OtherReceived(**row)
                for row in batch
            ]
            stored = [application.mapper.to_stored_event(each) for each in received]
            ids = application.recorder.insert_events(stored)
            cards = (
                id_
                for id_, each in zip(ids, received, strict=True)
                if isinstance(each, GiftCardReceived)
            )
            count, last = count + len(batch), max(cards, default=last)
    return count, last


def _batches(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


def view_class() -> Any:  # noqa: ANN401 - of the library
    """The view: gift cards in a table, with the library's tracking."""
    providers = load_providers({})

    class View(library("postgres").PostgresTrackingRecorder):  # type: ignore[misc]
        def fold(self, received: Received, tracking: Any) -> None:  # noqa: ANN401
            """Fold one event: its position and the state it makes, together or not at all."""
            event = received.event()
            with self.datastore.transaction(commit=True) as cursor:
                self._insert_tracking(cursor, tracking)
                cursor.execute(LOAD, (event.stream,), prepare=True)
                row = cursor.fetchone()
                before = None if row is None else GiftCard(**row)
                fact: Any = providers[event.provider].decode(event)
                after = evolve(before, fact, event)
                if after is not before:
                    values = (event.stream, event.position, *msgspec.structs.astuple(after))
                    cursor.execute(SAVE, values, prepare=True)

    return View


def projection_class(last: int, done: threading.Event) -> Any:  # noqa: ANN401 - of the library
    """The projection; `done` is set once it has folded the event with the id `last`."""

    class GiftCards(library("projection").Projection):  # type: ignore[misc]
        topics = (library("utils").get_topic(GiftCardReceived),)

        def process_event(self, domain_event: Received, tracking: Any) -> None:  # noqa: ANN401
            """Fold one event."""
            self.view.fold(domain_event, tracking)
            if tracking.notification_id == last:
                done.set()

    return GiftCards


def main(arguments: Sequence[str]) -> None:
    """Fill, wait, project."""
    log, target, events = arguments
    environment = settings(target)
    application_class: Any = type("Log", (library("application").Application,), {})
    with application_class(environment) as application:
        with application.recorder.datastore.transaction(commit=True) as cursor:
            cursor.execute(QUERIES["library_table"])
        count, last = fill(application, log, int(events))
    _say(f"ready {count}")
    sys.stdin.readline()
    done = threading.Event()
    began = time.perf_counter()
    with library("projection").ProjectionRunner(
        application_class=application_class,
        projection_class=projection_class(last, done),
        view_class=view_class(),
        env=environment,
    ) as runner:
        while not done.wait(LOOK_SECONDS):
            if runner.is_interrupted.is_set():
                runner.run_forever(timeout=0)
                fail("the library's runner stopped")
        seconds = time.perf_counter() - began
    _say(f"done {seconds}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
