"""Keys over JSON: making, listing and revoking them."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta

from eventstore.errors import KeyNameError, NotFoundError, TooManyKeysError
from eventstore.keys import WHOLE_STORE, Key, KeyScope, NewKey
from eventstore.query.cursor import Page
from web.access import Access
from web.context import Context
from web.errors import BadBodyError, TooLargeError, TooSlowError
from web.parameters import LARGEST, NoParameters
from web.route import COMMON_ERRORS, Route

logger = structlog.get_logger()


class KeyPath(msgspec.Struct, frozen=True):
    """Which key."""

    id: Annotated[int, Meta(ge=1, le=LARGEST, description="The id of a key.")]


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The key that is to be made."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@/+-]{0,99}$",
            description="What it is for, as the server's log has it: letters, digits and ` ._@/+-`, 100 at most.",
            examples=["dashboard"],
        ),
    ]
    scopes: Annotated[
        tuple[KeyScope, ...],
        Meta(min_length=1, max_length=8, description="What it is for.", examples=[["read"]]),
    ]
    merchants: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=500)], ...] | None,
        Meta(
            description="The ids of the merchants whose things it shows; null for all.",
            examples=[["m-1"]],
        ),
    ] = None
    expires_at: Annotated[
        datetime | None, Meta(description="Until when it counts; null for ever.")
    ] = None


class CreatedKey(Key, frozen=True, kw_only=True):
    """What is on record of a new key, and the `key` itself: this once, and never again."""

    key: str


async def create_key(
    context: Context, access: Access, _: NoParameters, body: KeyRequest
) -> CreatedKey:
    """Make a key."""
    now = datetime.now(UTC)
    if body.merchants is not None and not body.merchants:
        raise BadBodyError(problem="merchants must name one at least, or be null")
    if body.merchants is not None and (whole := WHOLE_STORE & set(body.scopes)):
        problem = f"a key of some merchants cannot be for {' and '.join(sorted(whole))}: that is about the whole store"
        raise BadBodyError(problem=problem)
    if any("\0" in merchant for merchant in body.merchants or ()):
        raise BadBodyError(problem="no merchant has an id with a NUL in it")
    if body.expires_at is not None and (body.expires_at.tzinfo is None or body.expires_at <= now):
        raise BadBodyError(problem="expires_at must be a time to come, with its offset from UTC")
    new = NewKey(
        name=body.name,
        scopes=body.scopes,
        merchants=body.merchants,
        expires_at=body.expires_at,
    )
    made, text = await context.keys.create(new)
    logger.info("key_created", message="A key was made.", **_facts(made, access))
    return CreatedKey(**msgspec.structs.asdict(made), key=text)


async def list_keys(
    context: Context, _access: Access, _path: NoParameters, _query: NoParameters
) -> Page[Key, None]:
    """All keys, those that have expired or were revoked included, the newest last."""
    return Page(await context.keys.list_all(), None)


async def revoke_key(context: Context, access: Access, path: KeyPath, _: NoParameters) -> Key:
    """Revoke a key, for good: within a second no process takes it any more."""
    revoked = await context.keys.revoke(path.id)
    if revoked is None:
        raise NotFoundError(what=f"key {path.id}")
    logger.info("key_revoked", message="A key was revoked.", **_facts(revoked, access))
    return revoked


def _facts(key: Key, access: Access) -> dict[str, object]:
    """A key, and who makes or revokes it, for the log."""
    return {
        "key": key.name,
        "key_id": key.id,
        "scopes": list(key.scopes),
        "merchants": None if key.merchants is None else list(key.merchants),
        "by": access.name,
    }


_BODY_ERRORS = (BadBodyError, TooLargeError, TooSlowError)

ROUTES = [
    Route(
        method="POST",
        path="/v1/keys",
        handler=create_key,
        body=KeyRequest,
        answer=CreatedKey,
        statuses=(HTTPStatus.CREATED,),
        errors=(*COMMON_ERRORS, *_BODY_ERRORS, KeyNameError, TooManyKeysError),
        scope="admin",
    ),
    Route(
        method="GET",
        path="/v1/keys",
        handler=list_keys,
        answer=Page[Key, None],
        scope="admin",
    ),
    Route(
        method="POST",
        path="/v1/keys/{id}/revoke",
        handler=revoke_key,
        path_parameters=KeyPath,
        answer=Key,
        errors=(*COMMON_ERRORS, NotFoundError),
        scope="admin",
    ),
]
