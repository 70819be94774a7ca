"""What the commands share: asking a running server over HTTP, and telling people how that went."""

import argparse
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from rich.console import RenderableType

from commands._screen import Screen, visible
from eventstore.errors import LoopledgerError

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"

# Exit codes of every command.
DONE, REFUSED, NO_SERVER, DIFFERENT, INTERRUPTED = 0, 1, 2, 3, 130

# Seconds: a promotion answers within 10, an append within 15.
ANSWER_SECONDS = 30.0
CONNECT_SECONDS = 5.0


class NoServerError(LoopledgerError):
    """No server answers at {url} ({problem}); start it or give --url."""


class AnsweredError(LoopledgerError):
    """{detail}"""  # noqa: D400 - the server's own words


class StrangeAnswerError(LoopledgerError):
    """{path} is not answered as Loopledger answers ({problem}): another server, or another version."""


def add_url(parser: argparse.ArgumentParser, *actions: argparse.ArgumentParser) -> None:
    """Add --url to a command; it may stand behind the action as well."""
    help_ = f"the server ({DEFAULT_URL})"
    parser.add_argument("--url", type=_url, default=DEFAULT_URL, help=help_)
    for action in actions:
        action.add_argument("--url", type=_url, default=argparse.SUPPRESS, help=help_)


def projection_name(text: str) -> str:
    """The name of a projection, also as its path has it: gift-cards is gift_cards."""
    return text.replace("-", "_")


class Server:
    """A server that is asked."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def ask(self, method: str, path: str) -> bytes:
        """Send a request; gives back the body of its answer. Raises NoServerError, AnsweredError."""
        try:
            async with self._session.request(
                method, self._url + path, allow_redirects=False
            ) as answer:
                body = await answer.read()
                if not answer.ok:
                    raise _refusal(answer, body)
                return body
        except (aiohttp.ClientError, OSError) as error:
            problem = str(error) or type(error).__name__
            raise NoServerError(url=self._url, problem=problem) from error

    async def get(self, path: str, type_: type[T]) -> T:
        """Ask for something. Raises StrangeAnswerError if it is something else; and as `ask` does."""
        body = await self.ask("GET", path)
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.DecodeError as error:
            raise StrangeAnswerError(path=self._url + path, problem=str(error)) from error

    async def find(self, path: str, type_: type[T]) -> T | None:
        """Ask for something that may not be there. Raises as `get` does."""
        try:
            return await self.get(path, type_)
        except AnsweredError as error:
            if error.facts["status"] == HTTPStatus.NOT_FOUND:
                return None
            raise


@asynccontextmanager
async def server_at(url: str) -> AsyncIterator[Server]:
    """The server at this address."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Server(session, url)


def reported(screen: Screen, command: Callable[[], int | RenderableType]) -> int:
    """Run a command, print what it gives back or why it failed; gives back the exit code."""
    try:
        result = command()
    except NoServerError as error:
        screen.complain(str(error))
        return NO_SERVER
    except LoopledgerError as error:
        screen.complain(str(error))
        return REFUSED
    except KeyboardInterrupt:
        screen.complain("interrupted")
        return INTERRUPTED
    if isinstance(result, int):
        return result
    if isinstance(result, str):
        screen.out.print(visible(result), soft_wrap=True)
    else:
        screen.out.print(result)
    return DONE


def _refusal(answer: aiohttp.ClientResponse, body: bytes) -> AnsweredError:
    problem: dict[str, Any] = {}
    # If it is none: a proxy before the server, or something else altogether.
    with suppress(msgspec.DecodeError):
        problem = msgspec.json.decode(body, type=dict[str, Any])
    detail = problem.get("detail") or f"{answer.url} answers {answer.status} {answer.reason}"
    slug = str(problem.get("type", "")).rpartition(":")[2]
    return AnsweredError(detail=detail, status=answer.status, slug=slug)


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        message = f"not the address of a server, like {DEFAULT_URL}: {text}"
        raise argparse.ArgumentTypeError(message)
    return text.rstrip("/")
