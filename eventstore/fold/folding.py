"""Folding: one pure function folds one event; the live projector, a rebuild and a history all use it.

The live projector and a rebuild collect what comes of it in the same `Accumulator`, so that both write the same.
"""

import sys
from collections.abc import Collection, Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, Literal, NamedTuple, TypeAlias

import msgspec

from eventstore.fold.columns import LONGEST_INDEXED, check_storable
from eventstore.fold.failures import NOTHING_FAILING, Failing, FailureRows
from eventstore.fold.projection import Judgement, Projection, Source, State, Verdict
from eventstore.fold.recording import Recorded, Recorder, recorder_of
from eventstore.fold.refiling import Refiled, find_stream, stream_of
from eventstore.fold.timeline import STREAM, Late, Row, Shape, late_by_stream, settle
from eventstore.log.events import Event, LogSlice
from eventstore.postgres.failures import describe

# A byte is found much sooner than a text of one byte.
BACKSLASH = ord("\\")

# What becomes of an event.
EventVerdict: TypeAlias = Verdict | Literal["quarantined", "ignored"]

# A state and the position of the event that changed it last.
StateAt: TypeAlias = tuple[int, State]


class Folded(msgspec.Struct, frozen=True):
    """What one event did: a verdict, the state after it, the error that put it in quarantine.

    `judgement` is why, if the projection says; `recorded` is what it adds to the timeline, if the projection keeps one.
    """

    verdict: EventVerdict
    state: Any
    error: str | None = None
    recorded: Recorded | None = None
    judgement: Judgement | None = None


def fold(
    projection: Projection[State], sources: Mapping[str, Source], state: State | None, event: Event
) -> Folded:
    """Fold one event into `state`, that of the stream which it belongs to: see `find_stream`.

    Never raises: what cannot be folded is quarantined, and the state stays.
    """
    if not handles(projection, sources, event.provider, event.topic):
        return Folded("ignored", state)
    source = sources[event.provider]
    try:
        fact = source.decode(event)
        stream = source.stream_of(event, fact)
    except Exception as error:  # noqa: BLE001 - as below
        return Folded("quarantined", state, describe(error))
    try:
        after, recorded = fold_fact(projection, state, fact, event, stream, recorder_of(projection))
    except Exception as error:  # noqa: BLE001 - an event that cannot be folded must not stop the others
        return Folded("quarantined", state, describe(error))
    if projection.judge is None:
        return Folded("stale" if after is state else "applied", after, None, recorded)
    judgement = projection.judge(state, fact, event)
    return Folded(judgement.verdict, after, None, recorded, judgement)


def fold_fact(
    projection: Projection[State],
    state: State | None,
    fact: Any,  # noqa: ANN401 - facts are the providers'
    event: Event,
    stream: str,
    recorder: Recorder[State] | None,
) -> tuple[State, Recorded | None]:
    """The state after the fact of an event, and what that adds to the timeline. Raises whatever it likes.

    `stream` is the one that it belongs to; `recorder` is the projection's own.
    """
    after = projection.evolve(state, fact, event)
    recorded = None
    if recorder is not None:
        recorded = recorder.record(state, after, fact, event, stream)
    body = event.body
    # Only an escape brings in what Postgres cannot store, only a long body what is too long.
    if BACKSLASH in body or len(body) > LONGEST_INDEXED:
        if after is not state:
            check_storable(after, projection.indexes)
        if recorder is not None and recorded is not None:
            recorder.check_storable(recorded.row)
    return after, recorded


def handles(
    projection: Projection[State], sources: Mapping[str, Source], provider: str, topic: str
) -> bool:
    """Say whether events of this provider and topic concern this projection."""
    source = sources.get(provider)
    return source is not None and source.topics.get(topic) in projection.handles


def handled_topics(projection: Projection[State], sources: Mapping[str, Source]) -> frozenset[str]:
    """Name the topics that concern this projection, each as "provider topic"."""
    return frozenset(
        f"{provider} {topic}"
        for provider, source in sources.items()
        for topic, fact in source.topics.items()
        if fact in projection.handles
    )


class NewRows(NamedTuple):
    """Rows of the timeline, of postings, and of the quarantine: position, stream and error."""

    timeline: list[Row]
    postings: list[Row]
    quarantined: list[tuple[int, str, str]]


class FoldBatch(NamedTuple, Generic[State]):
    """What the events after position `after` up to `checkpoint` changed: all that is written in one transaction.

    `changed` are states by their streams; `bases`, in ascending order, the positions of those in the table that they
    were folded from, where there was one. `failing` are the failures in a row, up to the checkpoint. `timeline` and
    `postings` are new rows; those of facts that came `late` are added once what came before is written (`settled`).
    """

    after: int
    checkpoint: int
    folded: int
    ignored: int
    failing: Failing
    changed: Mapping[str, StateAt[State]]
    bases: list[int]
    quarantined: list[tuple[int, str, str]]
    refiled: list[Refiled]
    timeline: list[Row]
    postings: list[Row]
    late: list[Late]

    def settled(self, shape: Shape, known: Iterable[Row]) -> "FoldBatch[State]":
        """The batch with what its late facts add; `known` are the rows in the table of the streams that have any."""
        timeline, postings = list(self.timeline), list(self.postings)
        rows: dict[str, list[Row]] = {late.row[STREAM]: [] for late in self.late}
        for row in (*known, *self.timeline):
            if row[STREAM] in rows:
                rows[row[STREAM]].append(row)
        for stream, late in late_by_stream(self.late).items():
            late_rows, late_postings = settle(shape, rows[stream], late)
            timeline += late_rows
            postings += late_postings
        return self._replace(timeline=timeline, postings=postings, late=[])


class Accumulator(Generic[State]):
    """Folds events that concern a projection, in order, and collects what is to be written.

    `loaded` are the states before the first event, by stream; None or no entry where there is none. `changed` are the
    states that differ from these. `failures` are those in a row up to the last event, `failing` those before the
    first one; `last_error` is why the last of them failed.

    An event is folded in the stream that it belongs to. If that is another than on record, it is in `refiled`, and is
    left out unless the stream is in `wanted`, or that is None; `left_out` is how many were. `missing` are streams of
    which no state was loaded: then what came of the fold is to be thrown away.
    """

    def __init__(
        self,
        projection: Projection[State],
        sources: Mapping[str, Source],
        loaded: "Mapping[str, StateAt[State] | None]" = MappingProxyType({}),
        failing: Failing = NOTHING_FAILING,
        wanted: Container[str] | None = None,
    ) -> None:
        self.changed: dict[str, StateAt[State]] = {}
        self.folded = 0
        self.quarantined = 0
        self.left_out = 0
        self.refiled: list[Refiled] = []
        self.missing: set[str] = set()
        self.failures = FailureRows(failing)
        self.last_error = ""
        self._projection = projection
        self._sources = sources
        self._loaded = loaded
        self._wanted = wanted
        self.late: list[Late] = []
        self._recorder = recorder_of(projection)
        self._timeline: list[Row] = []
        self._postings: list[Row] = []
        self._quarantine_rows: list[tuple[int, str, str]] = []

    def fold(
        self,
        events: Iterable[Event],
        failure_limit: int = sys.maxsize,
        excused: Collection[str] = (),
    ) -> str | None:
        """Fold events; stops behind one that makes the failures in a row of its "provider topic" reach the limit.

        Gives back that topic, or None. For `excused` see FailureRows.reaches.
        """
        # In local variables, for speed.
        projection, recorder = self._projection, self._recorder
        loaded, changed, failures = self._loaded, self.changed, self.failures
        timeline, postings, late = self._timeline, self._postings, self.late
        nothing: tuple[int, Any] = (0, None)
        for event, fact, stream in self._decoded(events):
            if stream != event.stream and not self._refile(event, stream):
                continue
            before = (changed.get(stream) or loaded.get(stream) or nothing)[1]
            try:
                if isinstance(fact, Exception):
                    raise fact  # noqa: TRY301 - it goes the way of what fails below
                after, recorded = fold_fact(projection, before, fact, event, stream, recorder)
            except Exception as error:  # noqa: BLE001 - an event that cannot be folded must not stop the others
                topic = self.quarantine(event, stream, describe(error))
                if failures.reaches(topic, failure_limit, excused):
                    return topic
                continue
            self.folded += 1
            if failures:
                failures.end(f"{event.provider} {event.topic}")
            # An event that repeats what is known already, in another object, changes nothing.
            if after is not before and after != before:
                changed[stream] = (event.position, after)
            if recorded is None:
                continue
            if recorded.late is None:
                timeline.append(recorded.row)
                postings += recorded.postings
            else:
                late.append(recorded.late)
        return None

    def _decoded(self, events: Iterable[Event]) -> list[tuple[Event, Any, str]]:
        """Events with their facts, or why they have none, and the streams that they belong to.

        All at once: processors are faster at doing one thing many times than at many things by turns.
        """
        sources, decoded = self._sources, []
        for event in events:
            source = sources[event.provider]
            try:
                fact: Any = source.decode(event)
                stream = source.stream_of(event, fact)
            except Exception as error:  # noqa: BLE001 - the event will be in quarantine
                fact, stream = error, stream_of(source, event, None)
            decoded.append((event, fact, stream))
        return decoded

    def refuse(self, event: Event, error: str) -> str:
        """Count an event as one that the database would not take, as `quarantine` does."""
        stream = find_stream(self._sources, event)
        if stream != event.stream:
            self._refile(event, stream)
        return self.quarantine(event, stream, error)

    def quarantine(self, event: Event, stream: str, error: str) -> str:
        """Count an event as one that could not be folded, because of `error`; gives back its "provider topic"."""
        topic = f"{event.provider} {event.topic}"
        self.quarantined += 1
        self.failures.add(topic, stream)
        self.last_error = error
        self._quarantine_rows.append((event.position, stream, error))
        return topic

    def _refile(self, event: Event, stream: str) -> bool:
        """Note that an event belongs to another stream than that on record; say whether it is to be folded there."""
        self.refiled.append(Refiled(event.position, event.stream, stream))
        if self._wanted is not None and stream not in self._wanted:
            self.left_out += 1
            return False
        if stream not in self._loaded:
            self.missing.add(stream)
        return True

    def batch(self, log_slice: LogSlice) -> FoldBatch[State]:
        """Everything that came of a slice of the log, which this has folded and nothing else."""
        return FoldBatch(
            after=log_slice.after,
            checkpoint=log_slice.through,
            folded=self.folded,
            ignored=log_slice.ignored,
            failing=self.failures.to_failing(),
            changed=self.changed,
            bases=sorted(
                base[0] for stream in self.changed if (base := self._loaded.get(stream)) is not None
            ),
            quarantined=self._quarantine_rows,
            refiled=self.refiled,
            timeline=self._timeline,
            postings=self._postings,
            late=self.late,
        )

    def take_refiled(self) -> list[Refiled]:
        """What is new in `refiled`, once."""
        taken, self.refiled = self.refiled, []
        return taken

    def take_rows(self) -> NewRows:
        """The new rows of timeline, postings and quarantine, once: they can be written before all is folded."""
        taken = NewRows(self._timeline, self._postings, self._quarantine_rows)
        self._timeline, self._postings, self._quarantine_rows = [], [], []
        return taken
