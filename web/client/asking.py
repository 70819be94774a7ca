"""What the commands share: asking a running server over HTTP, and telling people how that went."""

import argparse
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from rich.console import Console, RenderableType
from rich.table import Table

from eventstore.errors import LoopledgerError

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"

# Exit codes of every command.
DONE, REFUSED, NO_SERVER, DIFFERENT, INTERRUPTED = 0, 1, 2, 3, 130

# Columns of a line that no terminal limits.
WIDE = 200

# Seconds: a promotion answers within 10, an append within 15.
ANSWER_SECONDS = 30.0
CONNECT_SECONDS = 5.0

# What a terminal would act upon instead of showing it; line ends and tabs are harmless.
CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}


class NoServerError(LoopledgerError):
    """No server answers at {url} ({problem}); start it or give --url."""


class AnsweredError(LoopledgerError):
    """{detail}"""  # noqa: D400 - the server's own words


class StrangeAnswerError(LoopledgerError):
    """{path} is not answered as Loopledger answers ({problem}): another server, or another version."""


class Screen(NamedTuple):
    """Where a command prints. `ask` asks a question and gives back the answer; None where nobody could answer."""

    out: Console
    err: Console
    ask: Callable[[str], str] | None = None

    def say(self, text: str) -> None:
        """Print a text; a line that goes elsewhere than to a terminal stays one line."""
        self.out.print(visible(text), soft_wrap=not self.out.is_terminal)

    def complain(self, text: str) -> None:
        """Print what went wrong, on standard error."""
        self.err.print(f"loopledger: {visible(text)}", soft_wrap=not self.err.is_terminal)


def this_screen() -> Screen:
    """The standard streams."""
    out = console(width=None if sys.stdout.isatty() else WIDE)
    somebody = sys.stdin.isatty() and sys.stdout.isatty()
    ask = partial(out.input, markup=False, emoji=False) if somebody else None
    return Screen(out, console(stderr=True), ask)


def console(**options: Any) -> Console:  # noqa: ANN401 - rich's own
    """A console that prints a text as it is: neither [these] nor :these: mean anything."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def visible(text: str) -> str:
    """Show control characters instead of sending them: a delivery shall not steer anybody's terminal."""
    return text.replace("\r\n", "\n").translate(CONTROLS)


def written_out(facts: Mapping[str, object], headers: list[list[str]], body: bytes) -> str:
    """Write out all that is on record of a request."""
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += ["headers:", *(f"  {name}: {value}" for name, value in headers)]
    return "\n".join([*lines, "", body.decode("utf-8", "backslashreplace")])


def table(*, numbers: tuple[str, ...] = (), texts: tuple[str, ...] = (), last: str = "") -> Table:
    """A table without lines: columns of texts, then of numbers, then one that is wrapped."""
    made = Table(box=None, pad_edge=False)
    for heading in texts:
        made.add_column(heading, no_wrap=True)
    for heading in numbers:
        made.add_column(heading, justify="right", no_wrap=True)
    if last:
        made.add_column(last, overflow="fold")
    return made


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
