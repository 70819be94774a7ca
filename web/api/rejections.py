"""Refused requests, over JSON: what came, why it was refused, and another try after the cause is mended."""

import uuid
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta
from multidict import CIMultiDict

from eventstore.errors import (
    CursorError,
    NotFoundError,
    QueueFullError,
    RefusedError,
    UnavailableError,
)
from eventstore.query.cursor import Page
from eventstore.query.records import REJECTIONS
from eventstore.query.whole_lists import WholeList
from eventstore.rejections import Rejection, RejectionWithRequest
from providers.provider import Recognised, UnidentifiedError, UnparsableError
from verification.delivery import Delivery
from verification.keyring import UnverifiedError
from web.access import Access
from web.api.deliveries import Acknowledgement
from web.api.headers import parse_headers, split_lines
from web.api.lists import ListQuery, list_query_of, question_of
from web.context import Context, Endpoint
from web.errors import NotRetriableError
from web.formats import EncodedPage
from web.header_block import encode_headers
from web.ingest.headers import REJECTION_HEADER
from web.ingest.receiver import new_event, recognise
from web.parameters import LARGEST, NoParameters
from web.route import COMMON_ERRORS, Route
from web.whole import LIST_ERRORS, LIST_MEDIA

NAMESPACE = uuid.UUID("6a2f6c0e-2f0b-5c5e-9d7b-3c1f4f6d1a55")


RejectionId = Annotated[int, Meta(ge=1, le=LARGEST, description="The id of a rejection.")]


class RejectionPath(msgspec.Struct, frozen=True):
    """Which rejection."""

    id: RejectionId


class RejectionDetails(Rejection, frozen=True, kw_only=True):
    """All that is on record of one rejection, but its body.

    `digest` is of headers and body; `trusted`: an operator vouches for what has it. `headers` are pairs of name and
    value, as received, credentials left out. `body` is the path of its bytes; `complete`: these are all of them.
    """

    digest: str
    trusted: bool
    headers: list[tuple[str, str]]
    body: str
    complete: bool


async def list_rejections(
    context: Context, access: Access, _: NoParameters, query: ListQuery
) -> EncodedPage:
    """The refused requests, the newest first."""
    page = await context.lists.page(
        REJECTIONS,
        question_of(REJECTIONS, query),
        access.visibility,
        limit=query.limit,
        cursor=query.cursor,
    )
    return EncodedPage(page.body, page.next)


async def whole_rejections(
    _context: Context, access: Access, _: NoParameters, query: ListQuery
) -> WholeList:
    """All of them."""
    return WholeList(REJECTIONS, question_of(REJECTIONS, query), access.visibility)


async def show_rejection(
    context: Context, _access: Access, path: RejectionPath, _: NoParameters
) -> RejectionDetails:
    """One refused request with its headers."""
    rejection = await _find(context, path.id)
    return RejectionDetails(
        **{name: getattr(rejection, name) for name in Rejection.__struct_fields__},
        digest=rejection.digest,
        trusted=rejection.trusted,
        headers=parse_headers(rejection.headers),
        body=f"/v1/rejections/{rejection.id}/body",
        complete=rejection.complete,
    )


async def show_body(
    context: Context, _access: Access, path: RejectionPath, _: NoParameters
) -> bytes:
    """The bytes as they were received, or their beginning."""
    return (await _find(context, path.id)).body


async def retry_rejection(
    context: Context, _access: Access, path: RejectionPath, _: NoParameters
) -> Acknowledgement:
    """Verify a rejection again, as of when it came, and put it on record, marked.

    Credentials are not on record: where a provider is verified by one, somebody who may write to the database has to
    vouch for it first (`loopledger rejections retry --trust`). Signatures are checked all the same.
    """
    rejection = await _find(context, path.id)
    endpoint = context.endpoints.get(rejection.provider)
    if endpoint is None or not rejection.complete or not rejection.body:
        problem = (
            "its sender was not verified, and nobody's body is kept who is not; have it sent again"
        )
        if endpoint is None:
            problem = "its provider is gone"
        elif rejection.verified:
            problem = "its body is not on record as a whole; have it sent again"
        raise NotRetriableError(id=rejection.id, problem=problem)
    delivery = Delivery(
        rejection.provider,
        None,
        rejection.address,
        CIMultiDict(parse_headers(rejection.headers, "surrogateescape")),
        (),
        rejection.last_at,
        rejection.body,
    )
    try:
        _verify_again(endpoint, rejection, delivery)
        recognised = recognise(endpoint, delivery)
    except (UnidentifiedError, UnparsableError, UnverifiedError) as error:
        # What is wrong is the delivery of then, not this request.
        problem = f"it is still refused. {error}".removesuffix(".")
        raise NotRetriableError(id=rejection.id, problem=problem) from error
    if not await context.rejections.claim(rejection.id):
        raise NotRetriableError(id=rejection.id, problem="it is in the log, or being tried")
    try:
        position = await _append_once(context, rejection, delivery, recognised)
    except UnavailableError:
        # It may yet be committed: the claim stays until that is settled.
        raise
    except BaseException:
        await context.rejections.finish(rejection.id, None)
        raise
    await context.rejections.finish(rejection.id, position)
    return Acknowledgement(position)


async def _append_once(
    context: Context, rejection: RejectionWithRequest, delivery: Delivery, recognised: Recognised
) -> int:
    """Append a rejection, unless an earlier try that was not heard of again has: its event's id is always the same."""
    event_id = uuid.uuid5(NAMESPACE, f"{rejection.id} {rejection.count}")
    if (position := await context.reader.find(recognised.stream, event_id)) is not None:
        return position
    # It was verified as of when it came; the event is received now.
    delivery.received_at = datetime.now(UTC)
    pairs = [(REJECTION_HEADER, b"%d" % rejection.id), *split_lines(rejection.headers)]
    headers = encode_headers(pairs, recognised.topic, recognised.merchant_id, recognised.program_id)
    event = new_event(event_id, delivery, recognised, headers)
    return (await context.appender.append(event)).position


def _verify_again(endpoint: Endpoint, rejection: RejectionWithRequest, delivery: Delivery) -> None:
    verifier = endpoint.verifier
    if rejection.trusted:
        verifier = verifier.signatures_only
    elif verifier.needs_credentials:
        raise NotRetriableError(
            id=rejection.id,
            problem="its credentials are not on record; vouch for it with "
            f"`loopledger rejections retry {rejection.id} --trust <digest>`, as `show` gives it",
        )
    verifier.check_body(delivery, verifier.check_head(delivery))


async def _find(context: Context, id_: int) -> RejectionWithRequest:
    rejection = await context.rejections.read(id_)
    if rejection is None:
        raise NotFoundError(what=f"rejection {id_}")
    return rejection


ROUTES = [
    Route(
        method="GET",
        path="/v1/rejections",
        handler=list_rejections,
        whole=whole_rejections,
        media_types=LIST_MEDIA,
        query=list_query_of(REJECTIONS, "RejectionListQuery"),
        answer=Page[Rejection, str],
        errors=(*COMMON_ERRORS, CursorError, *LIST_ERRORS),
        scope="read",
    ),
    Route(
        method="GET",
        path="/v1/rejections/{id}",
        handler=show_rejection,
        path_parameters=RejectionPath,
        answer=RejectionDetails,
        errors=(*COMMON_ERRORS, NotFoundError),
        scope="read",
    ),
    Route(
        method="GET",
        path="/v1/rejections/{id}/body",
        handler=show_body,
        path_parameters=RejectionPath,
        answer=bytes,
        errors=(*COMMON_ERRORS, NotFoundError),
        scope="raw",
    ),
    Route(
        method="POST",
        path="/v1/rejections/{id}/retry",
        handler=retry_rejection,
        path_parameters=RejectionPath,
        answer=Acknowledgement,
        errors=(
            *COMMON_ERRORS,
            NotFoundError,
            NotRetriableError,
            QueueFullError,
            RefusedError,
        ),
        scope="operate",
    ),
]
