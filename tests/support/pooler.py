"""A pooler in front of Postgres, as strangers run them: each session, or each transaction, gets a server connection."""

import asyncio
import base64
import hashlib
import hmac
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

READY, KEY_DATA, IDLE = b"Z", b"K", b"I"


class Pooler:
    """Speaks Postgres's protocol between clients and `servers` connections to the server, in transaction mode or not.

    Clients are told another process than the one that serves them, as PgBouncer does. `last_in_first_out`: which of the
    free connections is taken. `startup_parameters`: whether what a client sets at its connection reaches the server.
    """

    def __init__(
        self,
        dsn: str,
        directory: Path,
        *,
        per_transaction: bool,
        last_in_first_out: bool = True,
        startup_parameters: bool = True,
    ) -> None:
        url = urlsplit(dsn)
        given = parse_qs(url.query)
        self._server = f"{given['host'][0]}/.s.PGSQL.{given['port'][0]}"
        self._password = url.password or ""
        if "passfile" in given:
            self._password = Path(given["passfile"][0]).read_text().strip().rsplit(":", 1)[1]
        self._user, self._database = url.username or "", url.path.removeprefix("/")
        self._path = directory / ".s.PGSQL.5432"
        self._per_transaction = per_transaction
        self._lifo = last_in_first_out
        self._startup_parameters = startup_parameters
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._parameters: dict[str, str] = {}
        self.dsn = f"postgresql://{self._user}@/{self._database}?host={directory}&port=5432&sslmode=disable"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Run it; gives its URL."""
        server = await asyncio.start_unix_server(self._serve, self._path)
        try:
            yield self.dsn
        finally:
            server.close()
            for writer in self._writers:
                writer.close()
            for writer in self._writers:
                with suppress(OSError):
                    await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self._server)
        self._writers.append(writer)
        pairs = {**self._parameters, "user": self._user, "database": self._database}
        body = b"".join(f"{k}\0{v}\0".encode() for k, v in pairs.items()) + b"\0"
        writer.write(struct.pack("!II", len(body) + 8, 196608) + body)
        await log_in(reader, writer, self._password)
        while (await read_message(reader))[:1] != READY:
            pass
        return reader, writer

    async def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._free:
            return self._free.pop(-1 if self._lifo else 0)
        return await self._connect()

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        self._writers.append(answers)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            (size,) = struct.unpack("!I", await client.readexactly(4))
            words = (await client.readexactly(size - 4))[4:-2].decode().split("\0")
            if self._startup_parameters:
                self._parameters = dict(zip(words[::2], words[1::2], strict=True))
            # AuthenticationOk, a key that is nobody's, ParameterStatus that the driver wants, ReadyForQuery.
            answers.write(
                struct.pack("!cII", b"R", 8, 0) + struct.pack("!cIII", KEY_DATA, 12, 1, 1)
            )
            for name, value in {"server_version": "18.0", "client_encoding": "UTF8"}.items():
                body = f"{name}\0{value}\0".encode()
                answers.write(struct.pack("!cI", b"S", len(body) + 4) + body)
            answers.write(struct.pack("!cIc", READY, 5, IDLE))
            server = None if self._per_transaction else await self._take()
            await self._relay(client, answers, server)
        answers.close()

    async def _relay(
        self,
        client: asyncio.StreamReader,
        answers: asyncio.StreamWriter,
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None,
    ) -> None:
        while True:
            message = await read_message(client)
            if message[:1] == b"X":
                break
            reader, writer = server = server or await self._take()
            writer.write(message)
            # Until a Sync or a simple query nothing has to be answered; what is answered is passed on then.
            while message[:1] not in {b"S", b"Q", b"H"}:
                message = await read_message(client)
                writer.write(message)
            if message[:1] == b"H":
                answers.write(await read_until(reader, {b"T", b"n", b"E"}))
                continue
            answer = await read_until(reader, {READY})
            answers.write(answer)
            if self._per_transaction and answer[-1:] == IDLE:
                self._free.append(server)
                server = None


async def log_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, password: str) -> None:
    """Authenticate by SCRAM-SHA-256 (RFC 7677)."""
    first = "n=,r=pooler"
    data = f"n,,{first}".encode()
    message = b"SCRAM-SHA-256\0" + struct.pack("!I", len(data)) + data
    await read_message(reader)
    writer.write(struct.pack("!cI", b"p", len(message) + 4) + message)
    challenge = (await read_message(reader))[9:].decode()
    nonce, salt, rounds = (part[2:] for part in challenge.split(","))
    key = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds))
    client_key = hmac.digest(key, b"Client Key", "sha256")
    last = f"c=biws,r={nonce}"
    signature = hmac.digest(
        hashlib.sha256(client_key).digest(), f"{first},{challenge},{last}".encode(), "sha256"
    )
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    message = f"{last},p={base64.b64encode(proof).decode()}".encode()
    writer.write(struct.pack("!cI", b"p", len(message) + 4) + message)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one message, its type and length included."""
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


async def read_until(reader: asyncio.StreamReader, types: set[bytes]) -> bytes:
    """Read messages up to one of these types."""
    found = b""
    while True:
        message = await read_message(reader)
        found += message
        if message[:1] in types:
            return found
