"""What the commands share: requests to a running server, and printing how they went."""

import argparse
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec
from rich.console import RenderableType

from commands._screen import Output, Screen, print_json, visible
from eventstore.errors import LoopledgerError, SettingsError
from runtime.address import find_key, find_running, reachable_url
from runtime.arguments import server_url
from runtime.data_directory import TwoStoresError, data_directory, own_directory
from runtime.settings import Settings
from runtime.wiring import settings_from
from web.api.health import SERVER_NAME, Health

T = TypeVar("T")

# Exit codes of every command.
DONE, REFUSED, NO_SERVER, DIFFERENT, INTERRUPTED = 0, 1, 2, 3, 130
WRONG_ARGUMENT = 2  # argparse's own

# A server that is starting, or a proxy before it, responds with these for a while.
TEMPORARY_STATUSES = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)

# Seconds: a promotion answers within 10, an append within 15.
ANSWER_SECONDS = 30.0
CONNECT_SECONDS = 5.0

# A live stream is silent for 15 s at most, if the server keeps its defaults.
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=60.0)


class NoServerError(LoopledgerError):
    """No server answers at {url}, {source} ({problem}). Start one (`make run`), or give its address with --url."""


class NotLoopledgerError(LoopledgerError):
    """What answers at {url}, {source}, is not Loopledger: {problem}. Nothing was sent to it. Give the address of your
    server with --url.
    """  # noqa: D205 - one message


class NoAddressError(LoopledgerError):
    """The setting port is 0 ({source}), which takes any free port, and no server runs on {where}. Start one, or give
    its address with --url.
    """  # noqa: D205 - one message


class ErrorResponseError(LoopledgerError):
    """{detail}"""  # noqa: D400 - the server's own words


class UnexpectedResponseError(LoopledgerError):
    """The response of {path} is not what Loopledger sends ({problem}). It may be another server or another version."""


class ServerAddress(NamedTuple):
    """The address of a server, how we know it ("given by --url"), and the key that is sent to it, if there is one."""

    url: str
    source: str
    key: str | None = None


def add_url(parser: argparse.ArgumentParser, *actions: argparse.ArgumentParser) -> None:
    """Add --url and --key to a command; they may also follow the action. Not given they are None, for `find_server`."""
    help_ = "the server (default: LOOPLEDGER_URL, host and port as set, or what runs on the data directory)"
    parser.add_argument("--url", type=server_url, help=help_)
    for action in actions:
        action.add_argument("--url", type=server_url, default=argparse.SUPPRESS, help=help_)
    help_ = "the key (default: LOOPLEDGER_KEY, which unlike this no other user sees, or the local key of the server)"
    parser.add_argument("--key", help=help_)
    for action in actions:
        action.add_argument("--key", default=argparse.SUPPRESS, help=help_)


def find_server(given: argparse.Namespace) -> ServerAddress:
    """The server that a command talks to, with the key for it: --key, the setting `key`, or the server's local key.

    Raises SettingsError, NoAddressError.
    """
    settings = settings_from(os.environ)
    address = _find_address(given, settings)
    key = getattr(given, "key", None) or settings.key
    if key is not None:
        return address._replace(key=key)
    with suppress(TwoStoresError):
        left = find_key(own_directory(settings), address.url)
        if left is not None:
            # To the address where that server listens, whatever else the name leads to.
            return address._replace(url=left.url, key=left.key)
    return address


def _find_address(given: argparse.Namespace, settings: Settings) -> ServerAddress:
    """The first of these that there is: --url, the setting `url`, `host` or `port` as set, where the server that uses
    the data directory listens, and the default.

    Raises SettingsError, NoAddressError.
    """  # noqa: D205 - the order is one list
    if given.url is not None:
        return ServerAddress(given.url, "given by --url")
    sources = settings.sources
    if settings.url is not None:
        try:
            return ServerAddress(server_url(settings.url), f"from {sources['url']}")
        except argparse.ArgumentTypeError as error:
            raise SettingsError(key="url", problem=error, source=sources["url"]) from None
    set_by = [sources[key] for key in ("host", "port") if key in sources]
    if set_by and settings.port != 0:
        url = reachable_url(settings.host, settings.port)
        return ServerAddress(url, f"from {' and '.join(dict.fromkeys(set_by))}")
    directory = _data_directory(settings)
    if directory is not None and (running := find_running(directory)) is not None:
        return ServerAddress(running.url, f"where the server on the data in {directory} listens")
    where = f"the data in {directory}" if directory else "a data directory that commands know"
    if settings.port == 0:
        raise NoAddressError(source=sources["port"], where=where)
    url = reachable_url(settings.host, settings.port)
    return ServerAddress(url, f"the default, as no server runs on {where}")


def _data_directory(settings: Settings) -> Path | None:
    """The data directory; None with a Postgres of one's own, or if it is not clear which it is."""
    if settings.database_url is None:
        with suppress(TwoStoresError):
            return data_directory(settings.data_dir)
    return None


def projection_name(text: str) -> str:
    """The name of a projection, also as its path has it: gift-cards is gift_cards."""
    return text.replace("-", "_")


class ApiClient:
    """Sends requests to one server, once it has made sure that it is a Loopledger."""

    def __init__(self, session: aiohttp.ClientSession, address: ServerAddress) -> None:
        self._session = session
        self._address = address
        self._url = address.url.rstrip("/")
        self._is_checked = False

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        """Send a request and return the body of its response.

        Raises NoServerError, NotLoopledgerError, ErrorResponseError.
        """
        await self.check_server()
        return await self._send(method, path, headers, body)

    async def check_server(self) -> None:
        """Make sure that a Loopledger answers, before anything else is sent. Raises as `request` does."""
        if self._is_checked:
            return
        problem = await self._problem_of_server()
        if problem is not None:
            raise NotLoopledgerError(url=self._url, source=self._address.source, problem=problem)
        self._is_checked = True

    async def _problem_of_server(self) -> str | None:
        """Why what answers is not a Loopledger; None if it is one."""
        try:
            health = msgspec.json.decode(await self._send("GET", "/healthz"), type=Health)
        except msgspec.DecodeError:
            return "its /healthz says something else"
        except ErrorResponseError as error:
            # A proxy says these while the server behind it starts.
            if error.facts["status"] in TEMPORARY_STATUSES:
                raise
            return f"its /healthz answers {error.facts['status']}"
        return None if health.server == SERVER_NAME else f"it calls itself {health.server!r}"

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        url = self._url + path
        headers = self._with_key(path, headers)
        try:
            async with self._session.request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                answer = await response.read()
                if not response.ok:
                    raise _error_of(response, answer)
                return answer
        except (aiohttp.ClientError, OSError) as error:
            raise NoServerError(
                url=self._url, source=self._address.source, problem=_describe(error)
            ) from error

    def _with_key(self, path: str, headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
        if self._address.key is None or not path.startswith("/v1/"):
            return headers
        return {**(headers or {}), "Authorization": f"Bearer {self._address.key}"}

    def renew(self, address: ServerAddress) -> None:
        """Ask there from here on: a server that has started again has another local key, and perhaps another port."""
        self._address = address
        self._url = address.url.rstrip("/")

    @asynccontextmanager
    async def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Get what has no end; gives its bytes as they come. Raises as `request` does."""
        await self.check_server()
        url = self._url + path
        try:
            async with self._session.get(
                url,
                headers=self._with_key(path, headers),
                allow_redirects=False,
                timeout=STREAM_TIMEOUT,
            ) as response:
                if not response.ok:
                    raise _error_of(response, await response.read())
                yield response.content.iter_any()
        except (aiohttp.ClientError, OSError) as error:
            raise NoServerError(
                url=self._url, source=self._address.source, problem=_describe(error)
            ) from error

    async def get(self, path: str, type_: type[T]) -> T:
        """Get a resource. Raises UnexpectedResponseError if it is not of this type, and what `request` raises."""
        body = await self.request("GET", path)
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.DecodeError as error:
            raise UnexpectedResponseError(path=self._url + path, problem=str(error)) from error

    async def read_body(self, path: str) -> bytes | None:
        """The exact bytes of what was sent; None if they are not for the key that we have. Raises as `request` does."""
        try:
            return await self.request("GET", path)
        except ErrorResponseError as error:
            if error.facts["slug"] in {"insufficient-scope", "key-needed"}:
                return None
            raise

    async def find(self, path: str, type_: type[T]) -> T | None:
        """Get a resource, or None if there is none. Raises as `get` does."""
        try:
            return await self.get(path, type_)
        except ErrorResponseError as error:
            if error.facts["status"] == HTTPStatus.NOT_FOUND:
                return None
            raise


@asynccontextmanager
async def api_client(address: ServerAddress) -> AsyncIterator[ApiClient]:
    """A client of the server at this address."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield ApiClient(session, address)


def run_reporting(
    screen: Screen,
    command: Callable[[], int | Output | RenderableType],
    *,
    as_json: bool = False,
) -> int:
    """Run a command, print its result or why it failed, and return the exit code."""
    try:
        result = command()
    except (NoServerError, NotLoopledgerError) as error:
        screen.error(str(error))
        return NO_SERVER
    except LoopledgerError as error:
        screen.error(str(error))
        return REFUSED
    except KeyboardInterrupt:
        screen.error("interrupted")
        return INTERRUPTED
    if isinstance(result, int):
        return result
    if isinstance(result, Output):
        if as_json:
            print_json(screen, result.data)
            return DONE
        result = result.shown
    if isinstance(result, str):
        screen.out.print(visible(result), soft_wrap=True)
    else:
        screen.out.print(result)
    return DONE


def _describe(error: Exception) -> str:
    """Why there is no response, as the system says it."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        number = error.os_error.errno
        # Names that are not found have numbers of their own, and words.
        return os.strerror(number) if number > 0 else error.os_error.strerror or str(error)
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_SECONDS:g} s"
    return str(error) or type(error).__name__


def _error_of(response: aiohttp.ClientResponse, body: bytes) -> ErrorResponseError:
    problem: dict[str, Any] = {}
    # Not JSON if it is from a proxy, or from another server altogether.
    with suppress(msgspec.DecodeError):
        problem = msgspec.json.decode(body, type=dict[str, Any])
    detail = (
        problem.get("detail") or f"{response.url} responds with {response.status} {response.reason}"
    )
    slug = str(problem.get("type", "")).rpartition(":")[2]
    if slug == "key-needed":
        detail = (
            "This needs a key: give one with --key or LOOPLEDGER_KEY, or run the command on the machine of the server, "
            "as the user that started it, with the LOOPLEDGER_DATA_DIR that it has."
        )
    return ErrorResponseError(detail=detail, status=response.status, slug=slug)
