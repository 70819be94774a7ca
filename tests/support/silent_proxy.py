"""A TCP proxy before Postgres that can go silent: it takes what it gets, tells nobody, and closes nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class SilentProxy:
    """Forwards connections to the server of `dsn` until `silent` is set; `dsn` then leads through it."""

    def __init__(self, dsn: str) -> None:
        self.silent = asyncio.Event()
        self.dsn = ""
        self._target = dsn
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def run(self) -> AsyncIterator["SilentProxy"]:
        """Listen while the block runs."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = parse_qs(urlsplit(self._target).query).get("passfile")
        passfile = f"&passfile={found[0]}" if found else ""
        parts = urlsplit(self._target)
        user = f"{parts.username}:{parts.password}" if parts.password else parts.username
        self.dsn = f"postgresql://{user}@127.0.0.1:{port}{parts.path}?sslmode=disable{passfile}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        query = parse_qs(urlsplit(self._target).query)
        socket = Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}"
        from_server, to_server = await asyncio.open_unix_connection(str(socket))
        try:
            await asyncio.gather(self._pump(reader, to_server), self._pump(from_server, writer))
        finally:
            to_server.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                if self.silent.is_set():
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
        if self.silent.is_set():
            # Not even that it ended is passed on.
            await asyncio.Event().wait()
        writer.close()
