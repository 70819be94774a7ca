"""Whether a connection has brought a verified delivery: from then on its sender is known, and no stranger."""

from aiohttp import web


def is_known(request: web.BaseRequest) -> bool:
    """Whether the connection of a request has brought a verified delivery. One that is aiohttp's alone forgets that."""
    return getattr(request.protocol, "sender_known", False)


def set_known(request: web.BaseRequest) -> None:
    """Note that it has."""
    protocol = request.protocol
    if hasattr(protocol, "sender_known"):
        protocol.sender_known = True


def set_refused(request: web.BaseRequest) -> None:
    """Note that it has brought one that was refused as unverified."""
    protocol = request.protocol
    if hasattr(protocol, "refuse_sender"):
        protocol.refuse_sender()
