"""States as they are now: one, or a page of them."""

from collections.abc import Iterable
from typing import Any

from eventstore.fold.columns import columns_of, identifier, names_of
from eventstore.fold.projection import Projection
from eventstore.query.queries import QUERIES


class StateView:
    """The live generation of a projection, by its plain name: what the API reads."""

    def __init__(self, projection: Projection[Any]) -> None:
        self.columns = columns_of(projection.state)
        self._words = {
            "table": identifier(projection.name),
            "names": names_of(self.columns),
            "key": projection.key,
        }
        self._tombstone = projection.tombstone

    def page(self, filters: Iterable[str]) -> str:
        """SQL for a page: $1 the stream it starts after, $2 its length, then a value for each filter."""
        return self._statement("page", filters)

    def find(self, filters: Iterable[str]) -> str:
        """SQL for an id: $1 the id, $2 how many at most, then a value for each filter."""
        return self._statement("find", filters)

    def _statement(self, name: str, filters: Iterable[str]) -> str:
        known = {column.name: f'"{column.name}" = ' for column in self.columns}
        if self._tombstone is not None:
            known["deleted"] = f'("{self._tombstone}" IS NOT NULL) = '
        conditions = "".join(f" AND {known[name]}${n}" for n, name in enumerate(filters, 3))
        return QUERIES[name].format(**self._words, filters=conditions)
