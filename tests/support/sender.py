"""A connection that sends bytes as they are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from tests.support import Answer


class Sender:
    """A connection that sends bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> Answer:
        """Send bytes, and read one answer."""
        self.writer.write(data)
        return await self.answer()

    async def answer(self) -> Answer:
        """Read one answer."""
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers["Content-Length"]))
        return Answer(int(status.split(" ")[1]), cast("Any", headers), body)

    async def closed(self) -> bool:
        """Whether the server closes the connection within a second, and says nothing more."""
        try:
            async with asyncio.timeout(1):
                return await self.reader.read() == b""
        except TimeoutError:
            return False


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Sender]:
    """Open one."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Sender(reader, writer)
    finally:
        writer.close()
