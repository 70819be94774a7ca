"""A bare aiohttp server, which Loopledger is compared with."""

import uvloop
from aiohttp import web

# As many connections may wait to be accepted as at a Loopledger.
BACKLOG = 1024


def serve(app: web.Application, port: int) -> None:
    """Serve until told to stop, on the loop that Loopledger runs on, without a log of requests."""
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        backlog=BACKLOG,
        access_log=None,
        print=None,
        shutdown_timeout=1,
        loop=uvloop.new_event_loop(),
    )
