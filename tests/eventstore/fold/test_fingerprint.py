"""The fingerprint of a projection: what changes it, and what does not."""

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Protocol

import msgspec
import pytest

from eventstore.fold.fingerprint import ROOT, fingerprint
from eventstore.fold.projection import Projection
from eventstore.log.events import Event
from projections import load_projections
from providers import fitbank, load_providers

# A project: one projection, and two providers, of which one has nothing to say to it.
PROJECT = {
    "cards": '''
"""Cards."""

import msgspec
from eventstore.fold.projection import Projection
from facts import CardFact
from rules import Base, newer

LIMIT = 5
UNUSED = 1

class Card(Base, frozen=True):
    """A card."""
    balance: int = 0
    owner: "Owner | None" = None

class Owner(msgspec.Struct, frozen=True):
    age: int = 0

def evolve(state: Card | None, fact: CardFact) -> Card:
    """Fold."""
    # The newest wins.
    return newer(state, fact, LIMIT)

def unrelated(x):
    return x

PROJECTION = Projection(
    name="cards", version=1, handles=frozenset({CardFact}), state=Card, key="id", evolve=evolve
)
''',
    "facts": """
import msgspec

class CardFact(msgspec.Struct):
    balance: int

class PlaceFact(msgspec.Struct):
    name: str
""",
    "rules": """
import msgspec

class Base(msgspec.Struct, frozen=True):
    id: str = ""

def newer(state, fact, limit):
    return older(state, fact, limit - 1) if limit else fact

def older(state, fact, limit):
    return newer(state, fact, limit - 1) if limit else state
""",
    "senders": """
from functools import partial, wraps
import facts, reading
from reading import read, scaled

class Sender:
    def __init__(self, topics, decode, decoding_settings=None):
        self.topics = topics
        self.decode = decode
        self.stream_of = stream_of
        self.decoding_settings = decoding_settings

def decode(event):
    return facts.CardFact(read(event))

def decode_place(event):
    return facts.PlaceFact("here")

def stream_of(event, fact):
    return fact.name

SOURCES = {
    "cards": Sender({"card": facts.CardFact, "place": facts.PlaceFact}, decode, {"cents": True}),
    "places": Sender({"place": facts.PlaceFact}, decode_place, {"short": True}),
}
""",
    "reading": """
RATES = {"EUR": 1}

def read(event, rate=1):
    return rounded(event.body)

def rounded(amount):
    return amount * RATES["EUR"]

def scaled(rate):
    '''Make a decoder.'''
    def decode_scaled(event):
        return read(event, rate)
    return decode_scaled
""",
}


class Take(Protocol):
    """Take the fingerprint of the project after changes: by module, what is replaced by what."""

    def __call__(self, **changes: tuple[str, str]) -> str:
        """What is to be replaced may be nothing: then something is added."""


@pytest.fixture
def take(tmp_path: Path) -> Take:
    numbers = itertools.count()

    def take_one(**changes: tuple[str, str]) -> str:
        root = tmp_path / str(next(numbers))
        root.mkdir()
        for name, text in {"helpers": "", **PROJECT}.items():
            old, new = changes.get(name, ("", ""))
            assert old in text
            (root / f"{name}.py").write_text(text.replace(old, new) if old else text + new, "utf-8")
        sys.path.insert(0, str(root))
        try:
            projection = importlib.import_module("cards").PROJECTION
            return fingerprint(projection, importlib.import_module("senders").SOURCES, root)
        finally:
            sys.path.remove(str(root))
            for name in ("helpers", *PROJECT):
                sys.modules.pop(name, None)

    return take_one


def decoder(expression: str) -> tuple[str, str]:
    """Let the cards be decoded by something else."""
    return "PlaceFact}, decode,", f"PlaceFact}}, {expression},"


def test_it_is_sixteen_hex_digits_and_the_same_for_the_same_project(take: Take) -> None:
    assert len(bytes.fromhex(take())) == 8
    assert take() == take()


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("cards", "newer(state, fact, LIMIT)", "newer(state, fact, 5)"),
        ("cards", "LIMIT = 5", "LIMIT = 6"),
        ("cards", "LIMIT = 5", "LIMIT = 5\nLIMIT += 1"),
        ("cards", "LIMIT = 5", "LIMIT = 5\nif LIMIT > 3:\n    LIMIT = 3"),
        ("cards", "LIMIT = 5", "try:\n    LIMIT = 5\nexcept ValueError:\n    LIMIT = 6"),
        ("cards", "balance: int", "balance: float"),
        ("cards", "age: int", "age: float"),
        ("cards", "version=1", "version=2"),
        ("facts", "balance: int", "balance: float"),
        ("rules", "id: str", "id: bytes"),
        ("rules", "else fact", "else None"),
        ("rules", "else state", "else None"),
        ("reading", "read(event, rate=1)", "read(event, rate=2)"),
        ("reading", '"EUR": 1', '"EUR": 2'),
        ("reading", "", 'RATES["EUR"] = 2'),
        ("reading", "", "RATES.update(EUR=2)"),
        ("senders", "True", "False"),
        ("senders", "return fact.name", "return event.stream"),
        ("senders", '"card":', '"a-card":'),
        ("senders", '"place":', '"place": facts.CardFact, "a-place":'),
    ],
)
def test_what_decides_the_fold_changes_it(take: Take, module: str, old: str, new: str) -> None:
    assert take(**{module: (old, new)}) != take()


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("cards", '"""Fold."""', '"""Fold a fact."""'),
        ("cards", '"""Fold."""', ""),
        ("cards", '"""A card."""', ""),
        ("cards", "# The newest wins.", ""),
        ("cards", "\n\n", "\n\n\n"),
        (
            "cards",
            "(state, fact, LIMIT)",
            "(\n        state,\n        fact,\n        LIMIT,\n    )",
        ),
        ("cards", "(state: Card | None, fact: CardFact) -> Card", "(state, fact)"),
        ("cards", "return x", "return x + newer"),
        ("cards", "UNUSED = 1", "UNUSED = 2"),
        ("cards", "LIMIT = 5\nUNUSED = 1", "UNUSED = 1\nLIMIT = 5"),
        (
            "cards",
            "from rules import Base, newer",
            "from rules import newer\nfrom rules import Base",
        ),
        ("facts", "name: str", "name: bytes"),
        ("reading", "'''Make a decoder.'''", "rate += 1"),
        ("senders", 'facts.PlaceFact("here")', 'facts.PlaceFact("there")'),
        ("senders", '"short": True', '"short": False'),
        ("senders", "decode_place, {", "len, {"),
    ],
)
def test_what_does_not_decide_the_fold_leaves_it_alone(
    take: Take, module: str, old: str, new: str
) -> None:
    assert take(**{module: (old, new)}) == take()


def test_code_that_moves_to_another_module_leaves_it_alone(take: Take) -> None:
    text = '\ndef rounded(amount):\n    return amount * RATES["EUR"]\n'
    moved = take(
        reading=(text, "\nfrom helpers import rounded\n"),
        helpers=("", f'RATES = {{"EUR": 1}}\n{text}'),
    )
    assert moved == take()


def test_a_name_imported_from_elsewhere_changes_it(take: Take) -> None:
    first, second = (
        take(rules=("import msgspec", f"import msgspec\nfrom math import {name} as fact"))
        for name in ("floor", "ceil")
    )
    assert first != second


@pytest.mark.parametrize(
    "importing",
    [
        "import helpers\n\ndef rounded(x):\n    return helpers.near(x)",
        "import helpers as h\n\ndef rounded(x):\n    return h.near(x)",
        "def rounded(x):\n    from helpers import near\n    return near(x)",
        "try:\n    from helpers import near as rounded\nexcept ImportError:\n    pass",
        "if RATES:\n    import helpers\n    rounded = helpers.near",
        "import helpers\n\ndef rounded(x):\n    return getattr(helpers, 'ne' + 'ar')(x)",
    ],
)
def test_code_is_reached_however_it_is_imported(take: Take, importing: str) -> None:
    changed = ('    return amount * RATES["EUR"]', f"    return amount\n\n{importing}")
    first, second = (
        take(reading=changed, helpers=("", f"def near(x):\n    return {result}\n"))
        for result in ("x", "-x")
    )
    assert first != second


@pytest.mark.parametrize(
    "expression",
    [
        "read",
        "lambda event: read(event)",
        "partial(read, rate=2)",
        "partial(partial(read), rate=2)",
        "scaled(2)",
        "partial(scaled(2))",
        "wraps(len)(lambda event: read(event))",
        "Reader().decode",
        "Reader.decode_all",
        "Reader()",
        "cache(read)",
        "rule",
    ],
)
def test_every_kind_of_decoder_counts_with_what_it_calls(take: Take, expression: str) -> None:
    more = """
from functools import cache, singledispatch

class Reader:
    def decode(self, event):
        return self.inner(event)
    def inner(self, event):
        return read(event)
    @classmethod
    def decode_all(cls, event):
        return read(event)
    def __call__(self, event):
        return read(event)

@singledispatch
def rule(event):
    raise TypeError

@rule.register
def _(event: object):
    return read(event)

class Sender:"""
    role, new = decoder(expression)
    text = PROJECT["senders"].replace("\nclass Sender:", more).replace(role, new)
    first, second = (
        take(senders=(PROJECT["senders"], text), reading=("event.body", body))
        for body in ("event.body", "event.size")
    )
    assert first != second


@pytest.mark.parametrize("made", ["scaled({})", "partial(read, rate={})", "partial(read, {})"])
def test_the_number_that_a_decoder_was_made_with_counts(take: Take, made: str) -> None:
    assert take(senders=decoder(made.format(1))) != take(senders=decoder(made.format(2)))


def test_a_closure_counts_with_the_function_that_made_it(take: Take) -> None:
    assert take(
        senders=decoder("scaled(1)"), reading=("read(event, rate)", "read(event, -rate)")
    ) != take(senders=decoder("scaled(1)"))


@pytest.mark.parametrize(
    "expression", ["len", "partial(print)", "print", "eval('lambda event: 1')"]
)
def test_a_decoder_without_source_is_named(take: Take, expression: str) -> None:
    with pytest.raises(TypeError, match=r"decode of cards of projection cards: .* has no source"):
        take(senders=decoder(expression))


class Fact(msgspec.Struct):
    """A fact of this module."""

    size: int


class State(msgspec.Struct, frozen=True):
    """A state of this module."""

    size: int


class Small:
    """A source whose `decode` is a new object each time that it is asked for."""

    topics: ClassVar = {"t": Fact}
    decoding_settings = None

    def decode(self, _: object) -> Fact:
        """Find a small one."""
        return Fact(1)

    def stream_of(self, event: Event, _: object) -> str:
        """Find that on record."""
        return event.stream


class Large(Small):
    """Another."""

    def decode(self, _: object) -> Fact:
        """Find a large one."""
        return Fact(2)


def test_every_source_counts() -> None:
    projection = Projection(
        name="sizes",
        version=1,
        handles=frozenset({Fact}),
        state=State,
        key="size",
        evolve=lambda _, fact, __: State(fact.size),
    )
    pairs = itertools.product((Small(), Large()), repeat=2)
    taken = [fingerprint(projection, {"a": a, "b": b}) for a, b in pairs]
    assert len(set(taken)) == 4


def real(**settings: msgspec.Struct) -> dict[str, str]:
    sources = load_providers(settings)
    return {name: fingerprint(each, sources) for name, each in load_projections().items()}


def test_each_real_projection_has_its_own() -> None:
    assert len(set(real().values())) == len(load_projections())


def test_cash_methods_swapped_changes_that_of_transactions_alone() -> None:
    swapped = real(fitbank=fitbank.Settings(cash_methods_swapped=True))
    assert {name for name, each in real().items() if swapped[name] != each} == {"transactions"}


def test_it_is_the_same_in_every_process() -> None:
    script = (
        "from tests.eventstore.fold.test_fingerprint import real; print(sorted(real().items()))"
    )
    taken = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert taken == [str(sorted(real().items()))] * 2
