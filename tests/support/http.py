"""Requests as they are written, and questions put again until there is something."""

import asyncio
import re
from typing import Any

from tests.support import Client

# What no two requests have in common.
REQUEST_ID = re.compile(rb'(X-Request-Id: |"request_id":")[A-Za-z0-9._-]+')


def without_ids(reply: bytes) -> bytes:
    """A reply without the ids of requests."""
    return REQUEST_ID.sub(rb"\1...", reply)


async def eventually(client: Client, path: str) -> Any:  # noqa: ANN401 - an Answer
    """Ask until there is something."""
    answer = await client.get(path)
    for _ in range(100):
        if answer.status == 200 and answer.json != {"items": [], "next": None}:
            break
        await asyncio.sleep(0.05)
        answer = await client.get(path)
    return answer


async def raw(client: Client, request: bytes) -> bytes:
    """Send bytes as they are; gives back what comes until the server closes or says no more."""
    host, port = client.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port.rstrip("/")))
    writer.write(request)
    reply = await asyncio.wait_for(reader.read(4096), 5)
    writer.close()
    await writer.wait_closed()
    return reply
