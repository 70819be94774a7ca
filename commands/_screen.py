"""Where and how the commands print."""

import argparse
import base64
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table

# Columns of a line that no terminal limits.
WIDE = 200

# Characters that a terminal would act on instead of showing them; line ends and tabs are harmless.
CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}


class Screen(NamedTuple):
    """Where a command prints. `ask` asks a question and returns the answer; None where nobody can answer."""

    out: Console
    err: Console
    ask: Callable[[str], str] | None = None

    def say(self, text: str) -> None:
        """Print a text; lines are wrapped on a terminal only."""
        self.out.print(visible(text), soft_wrap=not self.out.is_terminal)

    def error(self, text: str) -> None:
        """Print what went wrong, on standard error."""
        self.err.print(f"loopledger: {visible(text)}", soft_wrap=not self.err.is_terminal)


class Output(NamedTuple):
    """What a command found: `data`, which JSON can hold, for programs; and the same for people."""

    data: object
    shown: RenderableType


def add_json(*parsers: argparse.ArgumentParser) -> None:
    """Add --json to commands that find something."""
    for parser in parsers:
        parser.add_argument(
            "--json", action="store_true", help="print the result as one JSON object"
        )


def print_json(screen: Screen, data: object) -> None:
    """Print one JSON object on a line: what it is made of may be Structs."""
    text = msgspec.json.encode(data).decode()
    # As it is: JSON has no control characters, and rich would fold the line.
    screen.out.file.write(f"{text}\n")
    screen.out.file.flush()


def standard_screen() -> Screen:
    """The standard streams."""
    out = console(width=None if sys.stdout.isatty() else WIDE)
    somebody = sys.stdin.isatty() and sys.stdout.isatty()
    ask = partial(out.input, markup=False, emoji=False) if somebody else None
    return Screen(out, console(stderr=True), ask)


def console(**options: Any) -> Console:  # noqa: ANN401 - rich's own
    """A console that prints a text as it is: without markup such as [these] or :these:."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def visible(text: str) -> str:
    """Show control characters instead of sending them: a delivery must not control anybody's terminal."""
    return text.replace("\r\n", "\n").translate(CONTROLS)


def request_output(
    facts: Mapping[str, object], headers: list[list[str]], body: bytes | None
) -> Output:
    """Everything that is on record of a request. For programs the body is base64, as it may hold any bytes.

    It is None if the server does not give it out.
    """
    lines = [f"{name}: {_fact(value)}" for name, value in facts.items()]
    lines += ["headers:", *(f"  {name}: {value}" for name, value in headers)]
    shown = (body or b"").decode("utf-8", "backslashreplace")
    if body is None:
        shown = "(its body is shown to whoever has a key with the scope raw: --key, LOOPLEDGER_KEY)"
    elif not body and facts.get("size"):
        shown = "(its body is not on record)"
    text = "\n".join([*lines, "", shown])
    encoded = None if body is None else base64.b64encode(body).decode()
    return Output({**facts, "headers": headers, "body_base64": encoded}, text)


def _fact(value: object) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def table(*, numbers: tuple[str, ...] = (), texts: tuple[str, ...] = (), last: str = "") -> Table:
    """A table without lines: columns of texts, then of numbers, then one that is wrapped."""
    columns = Table(box=None, pad_edge=False)
    for heading in texts:
        columns.add_column(heading, no_wrap=True)
    for heading in numbers:
        columns.add_column(heading, justify="right", no_wrap=True)
    if last:
        columns.add_column(last, overflow="fold")
    return columns
