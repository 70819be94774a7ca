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
from eventstore.query.filters import states_listing
from eventstore.query.history_fold import Step
from eventstore.query.listing import Listing
from eventstore.query.states import row_type_of
from eventstore.query.whole_lists import WholeList
from web.access import Access
from web.api.lists import ListQuery, fields_of, list_query_of, question_of
from web.context import Context
from web.errors import BadBodyError, TooLargeError, TooManyMissesError, TooSlowError
from web.formats import EncodedJson, EncodedPage
from web.parameters import NoParameters, PageLimit, PositionOrZero
from web.route import COMMON_ERRORS, Route
from web.whole import LIST_ERRORS, LIST_MEDIA

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


class StatesQuery(ListQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which states."""

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


def _with_fields(listing: Listing, projection: Projection[Any]) -> type[msgspec.Struct]:
    """The query parameters of one thing."""
    return msgspec.defstruct(
        f"{projection.state.__name__}Query",
        [("fields", fields_of(listing), None)],
        bases=(ThingQuery,),
        namespace={"__doc__": ThingQuery.__doc__},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def search_body_of(projection: Projection[Any]) -> type[msgspec.Struct]:
    """The body of a search by a secret."""
    value = Annotated[
        str,
        Meta(min_length=1, max_length=200, description="The whole of it; exactly one is given."),
    ]
    return msgspec.defstruct(
        f"{projection.state.__name__}Search",
        [(name, value | None, None) for name in projection.secrets],
        namespace={"__doc__": "The secret that is searched by."},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def routes_of(projection: Projection[Any]) -> list[Route]:
    """The routes of one projection."""
    name = projection.name
    path = f"/v1/{name.replace('_', '-')}"
    # What it offers; what it says of money depends on the settings.
    listing = states_listing(projection)
    row_type = row_type_of(projection)
    search_body = search_body_of(projection)

    async def search(context: Context, access: Access, _: NoParameters, body: Any) -> EncodedPage:  # noqa: ANN401
        """What has this secret, deleted or not, masked. It comes in a body, so that no log of requests holds it."""
        given = {field: value for field in projection.secrets if (value := getattr(body, field))}
        if len(given) != 1:
            raise BadBodyError(problem=f"give one of {', '.join(projection.secrets)}")
        ((field, value),) = given.items()
        context.misses.begin(access)
        page = await context.states[name].find_by_secret(access.visibility, field, value)
        context.misses.end(access, name, field, found=bool(page.items))
        return EncodedPage(page.body, None)

    async def list_states(
        context: Context, access: Access, _: NoParameters, query: StatesQuery
    ) -> EncodedPage:
        """A page of states."""
        page = await context.states[name].page(
            access.visibility,
            question_of(listing, query),
            query.cursor,
            query.limit,
            query.at_least,
        )
        return EncodedPage(page.body, page.next, page.version)

    async def whole_list(
        context: Context, access: Access, _: NoParameters, query: StatesQuery
    ) -> WholeList:
        states = context.states[name]
        await states.wait_for(query.at_least)
        return WholeList(states.listing, question_of(listing, query), access.visibility)

    async def show_state(
        context: Context,
        access: Access,
        path: ThingPath,
        query: Any,  # noqa: ANN401 - what _with_fields made
    ) -> EncodedJson:
        """The state of one thing."""
        found = await context.states[name].find(
            access.visibility, path.id, query.owner, query.at_least, query.fields
        )
        return EncodedJson(f"{found.json}\n".encode(), found.generation)

    async def show_history(
        context: Context, access: Access, path: ThingPath, query: HistoryQuery
    ) -> EncodedPage:
        """What each event of one thing did to its state."""
        page = await context.histories[name].page(
            access.visibility, path.id, query.owner, query.cursor, query.limit, query.at_least
        )
        return EncodedPage(page.body, None if page.next is None else str(page.next))

    page: Any = Page
    searches = [
        Route(
            method="POST",
            path=f"{path}/search",
            handler=search,
            body=search_body,
            request_examples={
                f"by {name}": {name: "6006491234567890"} for name in projection.secrets
            },
            answer=page[row_type, str],
            errors=(
                *COMMON_ERRORS,
                BadBodyError,
                NotSetUpError,
                TooLargeError,
                TooManyMissesError,
                TooSlowError,
            ),
            scope="find",
            per_merchant=True,
        )
    ]
    thing_errors = (*COMMON_ERRORS, NotFoundError, AmbiguousError, NotFoldedError, NotSetUpError)
    return [
        *(searches if projection.secrets else ()),
        Route(
            method="GET",
            path=path,
            handler=list_states,
            whole=whole_list,
            media_types=LIST_MEDIA,
            query=list_query_of(listing, f"{projection.state.__name__}ListQuery", base=StatesQuery),
            answer=page[row_type, str],
            errors=(*COMMON_ERRORS, CursorError, *LIST_ERRORS, NotFoldedError, NotSetUpError),
            scope="read",
            per_merchant=True,
        ),
        Route(
            method="GET",
            path=f"{path}/{{id}}",
            handler=show_state,
            path_parameters=ThingPath,
            query=_with_fields(listing, projection),
            answer=row_type,
            errors=thing_errors,
            scope="read",
            per_merchant=True,
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
            per_merchant=True,
        ),
    ]
