"""A database of its own on somebody's server."""

import secrets
from urllib.parse import urlsplit, urlunsplit

import asyncpg


class FreshDatabase:
    """A database on the server of `server_url`, whose own database is only used to make it. `url` is its URL."""

    def __init__(self, server_url: str) -> None:
        self.name = f"loopledger_{secrets.token_hex(4)}"
        self.url = urlunsplit(urlsplit(server_url)._replace(path=f"/{self.name}"))
        self._server_url = server_url

    async def create(self) -> None:
        """Make it."""
        await self._execute(f"CREATE DATABASE {self.name}")

    async def drop(self) -> None:
        """Drop it, whoever is still connected."""
        await self._execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
