"""States as JSON: a list, one thing, and its history. Every projection is served alike.

`gift_cards` is at `/v1/gift-cards`, with its own columns as filters; a new projection needs nothing here.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from eventstore.errors import (
    AmbiguousError,
    CursorError,
    NotFoldedError,
    NotFoundError,
    NotSetUpError,
)
from eventstore.fold.projection import Projection
from eventstore.query.cursor import Page
from eventstore.query.filters import filters_of
from eventstore.query.history import Step
from eventstore.query.states import row_type_of
from web.access import Access
from web.context import Context
from web.parameters import NoParameters, PageLimit, PageQuery, PositionOrZero
from web.route import COMMON_ERRORS, Route

AtLeast = Annotated[
    PositionOrZero,
    Meta(description="Wait until the states have folded the event at this position."),
]
MerchantId = Annotated[
    str | None, Meta(description="Whose it is, where several merchants use the id.")
]
ProviderName = Annotated[
    str | None, Meta(description="Who tells of it, where several providers use the id.")
]


class ListQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which states, beside the filters of the projection."""

    cursor: Annotated[str | None, Meta(description="`next` of the page before.")] = None
    at_least: AtLeast = 0


class ThingPath(msgspec.Struct, frozen=True):
    """Which thing."""

    id: Annotated[str, Meta(description="The provider's id of it, percent-encoded.")]


class ThingQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose thing, if more than one has the id."""

    at_least: AtLeast = 0
    merchant_id: MerchantId = None
    provider: ProviderName = None

    @property
    def owner(self) -> dict[str, str]:
        """The parameters that say whose thing it is, as far as they are given."""
        given = {"merchant_id": self.merchant_id, "provider": self.provider}
        return {name: value for name, value in given.items() if value is not None}


class HistoryQuery(ThingQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose thing, and which part of its history."""

    limit: PageLimit = 100
    cursor: Annotated[PositionOrZero, Meta(description="`next` of the page before.")] = 0


def list_query_of(projection: Projection[Any]) -> type[msgspec.Struct]:
    """The query parameters of a projection's list: those of every list, and its own filters."""
    filters = [
        (name, Annotated[one.type | None, Meta(description=f"Only where `{name}` is this.")], None)
        for name, one in filters_of(projection).items()
    ]
    return msgspec.defstruct(
        f"{projection.state.__name__}ListQuery",
        filters,
        bases=(ListQuery,),
        namespace={"__doc__": "Which states."},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def routes_of(projection: Projection[Any]) -> list[Route]:
    """The routes of one projection."""
    name = projection.name
    path = f"/v1/{name.replace('_', '-')}"
    filters = tuple(filters_of(projection))

    async def list_states(
        context: Context, access: Access, _: NoParameters, query: ListQuery
    ) -> Page[Any, str]:
        """A page of states, in the order of their streams."""
        given = {name: value for name in filters if (value := getattr(query, name)) is not None}
        return await context.states[name].page(
            access.visibility, given, query.cursor, query.limit, query.at_least
        )

    async def show_state(
        context: Context, access: Access, path: ThingPath, query: ThingQuery
    ) -> msgspec.Struct:
        """The state of one thing."""
        return await context.states[name].find(
            access.visibility, path.id, query.owner, query.at_least
        )

    async def show_history(
        context: Context, access: Access, path: ThingPath, query: HistoryQuery
    ) -> Page[Step, int]:
        """What each event of one thing did to its state."""
        return await context.histories[name].page(
            access.visibility, path.id, query.owner, query.cursor, query.limit, query.at_least
        )

    row_type = row_type_of(projection)
    page: Any = Page
    thing_errors = (*COMMON_ERRORS, NotFoundError, AmbiguousError, NotFoldedError, NotSetUpError)
    return [
        Route(
            method="GET",
            path=path,
            handler=list_states,
            query=list_query_of(projection),
            answer=page[row_type, str],
            errors=(*COMMON_ERRORS, CursorError, NotFoldedError, NotSetUpError),
            scope="read",
        ),
        Route(
            method="GET",
            path=f"{path}/{{id}}",
            handler=show_state,
            path_parameters=ThingPath,
            query=ThingQuery,
            answer=row_type,
            errors=thing_errors,
            scope="read",
        ),
        Route(
            method="GET",
            path=f"{path}/{{id}}/history",
            handler=show_history,
            path_parameters=ThingPath,
            query=HistoryQuery,
            answer=Page[Step, int],
            errors=thing_errors,
            scope="read",
        ),
    ]
