"""A fingerprint tells whether states that were folded earlier are what a fold would give now.

It is taken from source: of what the fold runs, and of all in this project that this reaches by name, definition by
definition. Comments, docstrings, layout, where a definition stands and what is not reached count for nothing, nor do
annotations of undecorated functions; by the others msgspec decodes. What is not of this project counts by its name.

Not seen: names made at run time, `import *`, and what a callable was made with unless it is a callable, a text or a
number. Of its settings a source tells by `decoding_settings`.
"""

import ast
import builtins
import hashlib
import inspect
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.util import resolve_name
from itertools import chain
from pathlib import Path
from types import FunctionType, MethodType, NoneType
from typing import Any, TypeAlias

import msgspec

from eventstore.fold.projection import Projection, Source

ROOT = Path(__file__).resolve().parent.parent.parent

DIGITS = 16


def fingerprint(
    projection: Projection[Any], sources: Mapping[str, Source], root: Path = ROOT
) -> str:
    """Take the fingerprint of what `projection` folds from `sources`: 16 hex digits.

    This project is what lies below `root`, where its modules are imported from. Raises TypeError for a callable or type
    that has no source there.
    """
    topics = {
        name: {
            t: fact.__qualname__ for t, fact in source.topics.items() if fact in projection.handles
        }
        for name, source in sources.items()
    }
    concerned = {name: source for name, source in sources.items() if topics[name]}
    walk = _Walk(root.resolve())
    for role, value in _roots(projection, concerned):
        if not walk.start(role, value):
            message = f"{role} of projection {projection.name}: {value!r} has no source in {root}"
            raise TypeError(message)
    decisive = {
        "version": projection.version,
        "handles": sorted(fact.__qualname__ for fact in projection.handles),
        "topics": {name: topics[name] for name in concerned},
        "settings": {name: source.decoding_settings for name, source in concerned.items()},
        "code": walk.lines(),
    }
    encoded = msgspec.json.encode(decisive, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:DIGITS]


def _roots(
    projection: Projection[Any], sources: Mapping[str, Source]
) -> Iterator[tuple[str, object]]:
    """Where the walk starts, each with its role: whatever of a projection decides what its fold gives."""
    yield "evolve", projection.evolve
    yield "state", projection.state
    if projection.journal is not None:
        yield "journal write", projection.journal.write
        yield "journal entry", projection.journal.entry
    for fact in sorted(projection.handles, key=lambda fact: (fact.__qualname__, fact.__module__)):
        yield f"fact {fact.__qualname__}", fact
    for name, source in sorted(sources.items()):
        yield f"decode of {name}", source.decode


class _Walk:
    """A walk over the code below `root`. What it meets gets a number, so that the names of files do not count."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lines: list[str] = []
        self._places: list[_Place] = []
        self._numbers: dict[_Place, int] = {}
        self._started: dict[int, tuple[object, bool]] = {}

    def start(self, role: str, value: object) -> bool:
        """Start from a callable, and from what it was made with. Says whether any of that has source here."""
        if isinstance(value, str | bytes | int | float | NoneType):
            self._lines.append(f"{role} = {value!a}")
            return False
        if id(value) not in self._started:
            # It may hold itself; and it is kept, so that its id stays its own.
            self._started[id(value)] = value, False
            held = [self.start(f"{role} {n}", each) for n, each in enumerate(_held(value))]
            place = _place(self._root, value)
            if place is not None:
                self._lines.append(f"{role}: {self._number(place)}")
            self._started[id(value)] = value, place is not None or any(held)
        return self._started[id(value)][1]

    def lines(self) -> list[str]:
        """All that is reached, by number: the statements, and what the names in them mean."""
        for module, statements in self._places:
            forms, names = _read(statements)
            meanings = [(name, *self._meaning(module, name)) for name in names]
            self._lines.append(f"{forms} {meanings}")
        return self._lines

    def _number(self, place: "_Place") -> int:
        if place not in self._numbers:
            self._numbers[place] = len(self._places)
            self._places.append(place)
        return self._numbers[place]

    def _meaning(self, module: "_Module", dotted: str) -> Iterator[int | str]:
        """What a name means in a module: a number, or a name that is not ours; nothing if it is local or built in."""
        name, _, rest = dotted.partition(".")
        if name in module.bound:
            yield self._number((module, tuple(module.bound[name])))
        for imported in module.imported.get(name, ()):
            target = f"{imported}.{rest}" if rest else imported
            if (found := _find(self._root, target)) is None:
                yield target
            else:
                # A module that is itself a value may be asked for any of its names.
                owner, inner = found
                for each in [inner] if inner else sorted(owner.bound):
                    yield from self._meaning(owner, each)


def _held(value: object) -> list[object]:
    """What a callable was made with."""
    match value:
        case partial():
            return [value.func, *value.args, *chain.from_iterable(sorted(value.keywords.items()))]
        case MethodType():
            return [value.__func__, value.__self__, type(value.__self__)]
        case FunctionType():
            cells = value.__closure__ or ()
            return [inspect.unwrap(value), *(cell.cell_contents for cell in cells)]
    if isinstance(value, type) or not callable(value):
        return []
    return [inspect.unwrap(value), type(value)]


class _Module:
    """A module without what never counts: its statements, by the names that they bind, and what is imported as what."""

    def __init__(self, tree: ast.Module, package: str) -> None:
        self.body = tree.body
        self.bound: defaultdict[str, list[ast.stmt]] = defaultdict(list)
        self.imported: defaultdict[str, list[str]] = defaultdict(list)
        for node in ast.walk(tree):
            match node:
                case ast.Import():
                    for alias in node.names:
                        # `import a.b` binds a.
                        name = alias.name if alias.asname else alias.name.partition(".")[0]
                        self.imported[alias.asname or name].append(name)
                case ast.ImportFrom():
                    origin = resolve_name("." * node.level + (node.module or ""), package)
                    for alias in node.names:
                        self.imported[alias.asname or alias.name].append(f"{origin}.{alias.name}")
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    _reduce(node)
        foreign = {*self.imported, *dir(builtins)}
        for statement in tree.body:
            for name in _bound(statement, foreign):
                self.bound[name].append(statement)


# What a name is bound to: the statements of a module that do it, in their order.
_Place: TypeAlias = tuple[_Module, tuple[ast.stmt, ...]]


def _place(root: Path, value: object) -> _Place | None:
    """What binds a function or a class in its module. A closure goes by the function that made it."""
    if not isinstance(value, type | FunctionType):
        return None
    module = None
    with suppress(TypeError, OSError):  # it is built in, or was typed
        module = _module(root, Path(inspect.getfile(value)).resolve())
    if module is None:
        return None
    if isinstance(value, type):
        name, line = value.__qualname__, 0
    else:
        # Whatever name a wrapper takes over, its code keeps its own; a lambda has only its line.
        name, line = value.__code__.co_qualname, value.__code__.co_firstlineno
    around = [each for each in module.body if each.lineno <= line <= (each.end_lineno or line)]
    statements = module.bound.get(name.partition(".")[0], around)
    return (module, tuple(statements)) if statements else None


@cache
def _find(root: Path, dotted: str) -> tuple[_Module, str] | None:
    """The module of the project that a name leads into, and what is left of the name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:length])
        module = _module(root, path / "__init__.py") or _module(root, path.with_suffix(".py"))
        if module is not None:
            return module, ".".join(parts[length:])
    return None


@cache
def _module(root: Path, file: Path) -> _Module | None:
    """A module of the project; a virtual environment in its midst is not of it."""
    if file.suffix != ".py" or not file.is_relative_to(root) or not file.is_file():
        return None
    path = file.relative_to(root)
    if "site-packages" in path.parts:
        return None
    return _Module(ast.parse(file.read_bytes(), file), ".".join(path.parent.parts))


def _reduce(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Leave out of a definition what never counts: docstrings, and annotations that nothing goes by."""
    node.body = [
        each
        for each in node.body
        if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
    ]
    if not isinstance(node, ast.ClassDef) and not node.decorator_list:
        node.returns = None
        for each in ast.iter_child_nodes(node.args):
            if isinstance(each, ast.arg):
                each.annotation = None


def _bound(statement: ast.stmt, foreign: Container[str]) -> set[str]:
    """The names that a statement binds, or whose values it may change: `kinds.update(more)`, `@evolve.register`."""
    names = set()
    parts: Sequence[ast.AST] = [statement]
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            names, parts = {statement.name}, statement.decorator_list
        case ast.Assign():
            parts = statement.targets
        case ast.AnnAssign() | ast.AugAssign():
            parts = [statement.target]
    for node in chain.from_iterable(map(ast.walk, parts)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name() if isinstance(node.ctx, ast.Store) or node.id not in foreign:
                names.add(node.id)
    return names


@cache
def _read(statements: tuple[ast.stmt, ...]) -> tuple[list[str], list[str]]:
    """Statements as texts, and the names in them."""
    names = chain.from_iterable(map(_names, statements))
    return [*map(_form, statements)], sorted(set(names))


def _form(node: object) -> str:
    """Write a tree as text, without positions and empty fields.

    From one Python to the next, ast.unparse quotes f-strings in other ways, and ast.dump shows other fields: after an
    upgrade every state would count as folded by other code.
    """
    if isinstance(node, list):
        return f"[{' '.join(map(_form, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    return f"{type(node).__name__}({' '.join(f'{name}={_form(value)}' for name, value in fields)})"


def _names(node: ast.AST) -> Iterator[str]:
    """The names in a tree, as far as they are dotted, of local variables too, and those that annotations quote."""
    if dotted := _dotted(node):
        yield dotted
        return
    if isinstance(node, ast.AnnAssign):
        for each in ast.walk(node.annotation):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                with suppress(SyntaxError, ValueError):
                    yield from _names(ast.parse(each.value, mode="eval"))
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return base and f"{base}.{node.attr}"
    return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else ""
