"""What became of each fact of a thing, seen beside those before it: what a state alone cannot tell."""

from copy import copy
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from eventstore.fold.projection import Judgement, Verdict

if TYPE_CHECKING:
    from datetime import datetime

Reason: TypeAlias = Literal["after-deletion"]


class Explanation(NamedTuple):
    """A verdict; `decided_by` is the position of the event because of which a fact did not apply, or not all of it."""

    verdict: Verdict
    decided_by: int | None = None
    reason: Reason | None = None


class Explainer:
    """Explains the facts of one thing, in the order of their positions."""

    def __init__(self) -> None:
        self._newest: tuple[tuple[int, ...], int] | None = None
        self._deletion: tuple[tuple[int, ...], int] | None = None
        # Where each thing that was said of a time was said first.
        self._first: dict[tuple[datetime, int], int] = {}

    def fork(self) -> "Explainer":
        """Another one that goes on from here, apart from this one."""
        forked = copy(self)
        forked._first = self._first.copy()  # noqa: SLF001 - of this class
        return forked

    def explain(self, judgement: Judgement, position: int) -> Explanation:
        """Explain the next fact."""
        explanation = self._explain(judgement)
        if explanation.verdict != "duplicate":
            place = judgement.order, position
            self._newest = max(self._newest or place, place)
            if judgement.deletes:
                self._deletion = max(self._deletion or place, place)
            if not judgement.recorded:
                self._first[judgement.effective_at, judgement.said] = position
        return explanation

    def _explain(self, judgement: Judgement) -> Explanation:
        newest, verdict = self._newest, judgement.verdict
        if newest is None:
            return Explanation(verdict)
        # Of a time that decides nothing any more, a state does not know what was said.
        first = self._first.get((judgement.effective_at, judgement.said))
        if not judgement.recorded and first is not None:
            return Explanation("duplicate", first)
        if verdict == "duplicate":
            return Explanation(verdict, newest[1])
        if judgement.after_deletion and self._deletion is not None:
            return Explanation(verdict, self._deletion[1], "after-deletion")
        return Explanation(verdict, newest[1] if judgement.order < newest[0] else None)
