"""Refused requests, over JSON: what came, why it was refused, and another try after the cause is mended."""

import uuid
from datetime import UTC, datetime

from aiohttp import web
from multidict import CIMultiDict

from eventstore.errors import UnavailableError
from eventstore.rejections import RejectionWithRequest
from providers.provider import Recognised
from verification.delivery import Delivery
from web import parameters
from web.context import (
    CONTEXT,
    Context,
    Endpoint,
    Page,
    bytes_response,
    header_pairs,
    json_response,
)
from web.ingest.headers import REJECTION_HEADER
from web.ingest.receiver import new_event, recognise
from web.problems import NotFoundError, NotRetriableError

NAMESPACE = uuid.UUID("6a2f6c0e-2f0b-5c5e-9d7b-3c1f4f6d1a55")


async def list_rejections(request: web.Request) -> web.Response:
    """`GET /v1/rejections?limit=&cursor=`: the newest first."""
    context = request.app[CONTEXT]
    parameters.known_only(request, {"limit", "cursor"})
    limit = parameters.page_length(request)
    before = parameters.whole_number(request, "cursor", parameters.LARGEST, least=1)
    items = await context.rejections.page(before, limit + 1)
    more = len(items) > limit
    return json_response(Page(items[:limit], items[limit - 1].id if more else None))


async def show_rejection(request: web.Request) -> web.Response:
    """`GET /v1/rejections/{id}`: all that is on record of it, but its body."""
    parameters.known_only(request, set())
    rejection = await _rejection(request)
    return json_response(
        {
            **{name: getattr(rejection, name) for name in rejection.__struct_fields__},
            "headers": header_pairs(rejection.headers),
            "body": f"/v1/rejections/{rejection.id}/body",
            "complete": rejection.complete,
        }
    )


async def show_body(request: web.Request) -> web.Response:
    """`GET /v1/rejections/{id}/body`: the bytes as they were received, or their beginning."""
    parameters.known_only(request, set())
    return bytes_response((await _rejection(request)).body)


async def retry_rejection(request: web.Request) -> web.Response:
    """`POST /v1/rejections/{id}/retry`: verify it again, as of when it came, and put it on record, marked.

    Credentials are not on record: where a provider is verified by one, somebody who may write to the database has to
    vouch for it first (`loopledger rejections retry --trust`). Signatures are checked all the same.
    """
    context = request.app[CONTEXT]
    parameters.known_only(request, set())
    rejection = await _rejection(request)
    endpoint = context.endpoints.get(rejection.provider)
    if endpoint is None or not rejection.complete or not rejection.body:
        problem = "its body is not on record" if endpoint else "its provider is gone"
        raise NotRetriableError(id=rejection.id, problem=problem)
    delivery = Delivery(
        rejection.provider,
        None,
        rejection.address,
        CIMultiDict(header_pairs(rejection.headers, "surrogateescape")),
        (),
        rejection.last_at,
        rejection.body,
    )
    _verify_again(endpoint, rejection, delivery)
    recognised = recognise(endpoint, delivery)
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
    return json_response({"position": position})


async def _append_once(
    context: Context, rejection: RejectionWithRequest, delivery: Delivery, recognised: Recognised
) -> int:
    """Append a rejection, unless an earlier try that was not heard of again has: its event's id is always the same."""
    event_id = uuid.uuid5(NAMESPACE, f"{rejection.id} {rejection.count}")
    if (position := await context.reader.find(recognised.stream, event_id)) is not None:
        return position
    # It was verified as of when it came; the event is received now.
    delivery.received_at = datetime.now(UTC)
    mark = b"%b: %d\r\n" % (REJECTION_HEADER, rejection.id)
    event = new_event(event_id, delivery, recognised, mark + rejection.headers)
    return (await context.appender.append(event)).position


def _verify_again(endpoint: Endpoint, rejection: RejectionWithRequest, delivery: Delivery) -> None:
    verifier = endpoint.verifier
    if rejection.trusted:
        verifier = verifier.signatures_only
    elif verifier.needs_credentials:
        raise NotRetriableError(
            id=rejection.id,
            problem="its credentials are not on record; vouch for it with "
            f"`loopledger rejections retry {rejection.id} --trust`",
        )
    verifier.check_body(delivery, verifier.check_head(delivery))


async def _rejection(request: web.Request) -> RejectionWithRequest:
    id_ = parameters.as_whole_number(request.match_info["id"], "id", least=1)
    rejection = await request.app[CONTEXT].rejections.read(id_)
    if rejection is None:
        raise NotFoundError(what=f"rejection {id_}")
    return rejection
