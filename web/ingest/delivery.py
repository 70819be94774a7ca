"""Making a delivery of a request."""

from datetime import UTC, datetime
from time import perf_counter

from aiohttp import web

from verification.delivery import Delivery

WEBHOOKS = "/webhooks/"


def split_path(raw_path: str) -> tuple[str, str | None] | None:
    """Split /webhooks/<provider>[/<secret>], as it was sent, into provider and secret; None for any other path.

    As everywhere, a slash at the end makes no difference.
    """
    if not raw_path.startswith(WEBHOOKS):
        return None
    provider, slash, secret = raw_path[len(WEBHOOKS) :].removesuffix("/").partition("/")
    return provider, secret if slash else None


def delivery_of(request: web.BaseRequest) -> Delivery | None:
    """Make the delivery, without its body, if this request is one."""
    if request.method != "POST" or (found := split_path(request.rel_url.raw_path)) is None:
        return None
    provider, secret = found
    return Delivery(
        provider,
        secret,
        request.remote or "",
        request.headers,
        request.raw_headers,
        datetime.now(UTC),
        since=perf_counter(),
    )
