"""Readers of live streams."""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from commands._sse import Message, messages
from tests.support import Client


class LiveReader:
    """Reads one stream: `last_id` is the id of what was read last."""

    def __init__(self, lines: AsyncIterable[bytes]) -> None:
        self.last_id = ""
        self.kinds: list[str] = []
        self._messages = messages(lines)

    async def next(self, seconds: float = 10) -> Message:
        """The next message that has data."""
        async with asyncio.timeout(seconds):
            async for message in self._messages:
                self.last_id = message.id
                if message.data:
                    return message
        raise EOFError

    async def position(self, seconds: float = 10) -> int:
        """The position of the next event or state."""
        message = await self.next(seconds)
        position: int = json.loads(message.data)["position"]
        assert message.id.rpartition("-")[2] == str(position)
        return position

    async def positions(self, count: int) -> list[int]:
        """Those of the next ones."""
        return [await self.position() for _ in range(count)]

    async def until_id(self, seconds: float = 10) -> str:
        """The id of the next message, with data or without."""
        async with asyncio.timeout(seconds):
            async for message in self._messages:
                self.last_id = message.id
                return message.id
        raise EOFError

    async def rest(self, seconds: float = 10) -> list[Message]:
        """What comes until the stream ends."""
        async with asyncio.timeout(seconds):
            return [message async for message in self._messages if message.data]


@asynccontextmanager
async def reading(client: Client, path: str, **options: Any) -> AsyncIterator[LiveReader]:  # noqa: ANN401 - aiohttp's own
    """Read a stream while the block runs."""
    headers = {"Authorization": f"Bearer {client.key}"} if client.key else {}
    headers |= options.pop("headers", {})
    async with client.session.get(path, headers=headers, **options) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield LiveReader(response.content)
