"""What every list has in common: its query parameters, and what they ask of a listing."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from eventstore.query.listing import Listing, Question
from web.parameters import PageLimit


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of a list, beside its own filters, sorts and fields."""

    limit: PageLimit = 100
    cursor: Annotated[
        str | None, Meta(description="`next` of the page before; the filters and the sort stay.")
    ] = None


def list_query_of(
    listing: Listing, name: str, base: type[msgspec.Struct] = ListQuery
) -> type[msgspec.Struct]:
    """The query parameters of a list: those of `base`, the sorts and fields of the listing, and its filters."""
    default = listing.usual_sort
    sort: Any = Literal[listing.sort_words]
    described = [
        (
            "sort",
            Annotated[sort, Meta(description="The order; with `-`, the other way round.")],
            default,
        ),
        ("fields", fields_of(listing), None),
        *(
            (name, Annotated[one.type | None, Meta(description=one.description)], one.default)
            for name, one in listing.filters.items()
        ),
    ]
    return msgspec.defstruct(
        name,
        described,
        bases=(base,),
        namespace={"__doc__": base.__doc__},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def fields_of(listing: Listing) -> Any:  # noqa: ANN401 - a type
    """The type of the parameter `fields` of a list, and of one thing in it."""
    field: Any = Literal[tuple(listing.fields)]
    return Annotated[
        tuple[field, ...] | None,
        Meta(description="The fields to answer, with commas between them; all if left out."),
    ]


def question_of(listing: Listing, query: Any) -> Question:  # noqa: ANN401 - what list_query_of made
    """What query parameters ask of a listing."""
    given = ((name, getattr(query, name)) for name in listing.filters)
    return Question(
        filters={name: value for name, value in given if value is not None},
        sort=query.sort,
        fields=query.fields,
    )
