"""The table of log events in docs/operations.md, and the calls that log them, say the same."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.support import ROOT

PRODUCT = ("eventstore", "verification", "providers", "projections", "web", "runtime", "commands")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.+) \| (.+) \|$", re.MULTILINE)


class Call(NamedTuple):
    """A call that logs an event."""

    place: str
    level: str
    event: object
    message: object


def logging_calls() -> Iterator[Call]:
    files = [
        ROOT / "server.py",
        *(file for name in PRODUCT for file in (ROOT / name).rglob("*.py")),
    ]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("logger"), attr=level)):
                    pass
                case _:
                    continue
            assert level in LEVELS
            message = next((word.value for word in node.keywords if word.arg == "message"), None)
            yield Call(
                f"{file.relative_to(ROOT)}:{node.lineno}",
                "error" if level == "exception" else level,
                constant(node.args[0]),
                constant(message),
            )


def constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


CALLS = list(logging_calls())


def test_every_event_has_a_name_in_snake_case_and_a_sentence_for_people() -> None:
    for call in CALLS:
        assert isinstance(call.event, str), call
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", call.event), call
        assert isinstance(call.message, str), call
        assert re.fullmatch(r"[A-Z`].*\.", call.message), call


def test_the_table_lists_every_event_with_its_level_and_no_other() -> None:
    documented = {(name, level) for name, level, _, _ in ROW.findall(PAGE)}
    assert documented == {(call.event, call.level) for call in CALLS}
    assert len(documented) == len({name for name, _ in documented})


def test_the_table_is_in_the_order_of_the_alphabet() -> None:
    events = [event for event, *_ in ROW.findall(PAGE)]
    assert events == sorted(events)
