"""What the commands share: requests to a running server, and printing how they went."""

import argparse
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
import msgspec
from rich.console import RenderableType

from commands._screen import Screen, visible
from eventstore.errors import LoopledgerError
from runtime.arguments import server_url
from runtime.wiring import settings_from

T = TypeVar("T")

# Exit codes of every command.
DONE, REFUSED, NO_SERVER, DIFFERENT, INTERRUPTED = 0, 1, 2, 3, 130

# Seconds: a promotion answers within 10, an append within 15.
ANSWER_SECONDS = 30.0
CONNECT_SECONDS = 5.0


class NoServerError(LoopledgerError):
    """No server answers at {url} ({problem}). Start it, or give its address with --url."""


class NoDefaultUrlError(LoopledgerError):
    """The setting port is 0, which takes any free port: give the server's address with --url."""


class ErrorResponseError(LoopledgerError):
    """{detail}"""  # noqa: D400 - the server's own words


class UnexpectedResponseError(LoopledgerError):
    """The response of {path} is not what Loopledger sends ({problem}). It may be another server or another version."""


def add_url(parser: argparse.ArgumentParser, *actions: argparse.ArgumentParser) -> None:
    """Add --url to a command; it may also follow the action. Without it `given.url` is None, for `server_url_of`."""
    help_ = "the server (default: host and port of the settings, usually http://127.0.0.1:8080)"
    parser.add_argument("--url", type=server_url, help=help_)
    for action in actions:
        action.add_argument("--url", type=server_url, default=argparse.SUPPRESS, help=help_)


def server_url_of(given: argparse.Namespace) -> str:
    """The server's address: as given, or else where a server with these settings listens.

    Raises SettingsError, NoDefaultUrlError.
    """
    if given.url is not None:
        url: str = given.url
        return url
    settings = settings_from(os.environ)
    if settings.port == 0:
        raise NoDefaultUrlError
    # A server that listens on every address is reached on this machine's own.
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def projection_name(text: str) -> str:
    """The name of a projection, also as its path has it: gift-cards is gift_cards."""
    return text.replace("-", "_")


class ApiClient:
    """Sends requests to one server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def request(self, method: str, path: str) -> bytes:
        """Send a request and return the body of its response. Raises NoServerError, ErrorResponseError."""
        try:
            async with self._session.request(
                method, self._url + path, allow_redirects=False
            ) as response:
                body = await response.read()
                if not response.ok:
                    raise _error_of(response, body)
                return body
        except (aiohttp.ClientError, OSError) as error:
            problem = str(error) or type(error).__name__
            raise NoServerError(url=self._url, problem=problem) from error

    async def get(self, path: str, type_: type[T]) -> T:
        """Get a resource. Raises UnexpectedResponseError if it is not of this type, and what `request` raises."""
        body = await self.request("GET", path)
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.DecodeError as error:
            raise UnexpectedResponseError(path=self._url + path, problem=str(error)) from error

    async def find(self, path: str, type_: type[T]) -> T | None:
        """Get a resource, or None if there is none. Raises as `get` does."""
        try:
            return await self.get(path, type_)
        except ErrorResponseError as error:
            if error.facts["status"] == HTTPStatus.NOT_FOUND:
                return None
            raise


@asynccontextmanager
async def api_client(url: str) -> AsyncIterator[ApiClient]:
    """A client of the server at this address."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield ApiClient(session, url)


def run_reporting(screen: Screen, command: Callable[[], int | RenderableType]) -> int:
    """Run a command, print its result or why it failed, and return the exit code."""
    try:
        result = command()
    except NoServerError as error:
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
    if isinstance(result, str):
        screen.out.print(visible(result), soft_wrap=True)
    else:
        screen.out.print(result)
    return DONE


def _error_of(response: aiohttp.ClientResponse, body: bytes) -> ErrorResponseError:
    problem: dict[str, Any] = {}
    # Not JSON if it is from a proxy, or from another server altogether.
    with suppress(msgspec.DecodeError):
        problem = msgspec.json.decode(body, type=dict[str, Any])
    detail = (
        problem.get("detail") or f"{response.url} responds with {response.status} {response.reason}"
    )
    slug = str(problem.get("type", "")).rpartition(":")[2]
    return ErrorResponseError(detail=detail, status=response.status, slug=slug)
