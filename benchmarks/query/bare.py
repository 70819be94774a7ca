"""A bare aiohttp handler: `python -m benchmarks.query.bare DIRECTORY PORT` answers /NAME with the bytes of a file.

It looks nothing up, checks nothing and knows nobody: what aiohttp itself takes for an answer of these bytes.
"""

import argparse
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web

from benchmarks.harness.bare_server import serve


def handler_of(body: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that answers with a body."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return answer


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("port", type=int)
    given = parser.parse_args(arguments)
    app = web.Application()
    for file in given.directory.iterdir():
        app.router.add_get(f"/{file.name}", handler_of(file.read_bytes()))
    serve(app, given.port)


if __name__ == "__main__":
    main()
