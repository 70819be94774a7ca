"""Telling systemd how far a service is (sd_notify(3)): it starts what depends on us only once we serve."""

import os
import socket
from contextlib import suppress

# Where systemd listens; a child that inherited it could speak for us.
SOCKET = "NOTIFY_SOCKET"


def notify(state: str) -> None:
    """Send a state such as READY=1, if somebody wants to know."""
    path = os.environ.get(SOCKET)
    if not path:
        return
    # A name that begins with @ is one of Linux's abstract sockets.
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        sender.sendall(state.encode())
