"""A fingerprint of the code that folds: as long as it stays the same, so do the states that a fold gives.

It is taken from the source code of what the fold calls and of everything in this project that this refers to by name,
definition by definition. Comments, docstrings, layout, the place of a definition and whatever is not reached do not
count; neither do annotations, but for those of classes and decorated functions, by which msgspec decodes.

The engine's own part of a fold counts in the same way: `ENGINE` are the definitions in which it begins. Code of other
projects counts by its name only, but for the version of msgspec and, where a fold reads local times, that of the rules
of time zones.

It does not see SQL, names made at run time, `import *`, or what a callable was made with unless that is a callable, a
text or a number. The settings that a source decodes by are its `decoding_settings`.
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

from eventstore.fold.dependencies import msgspec_version, time_zones
from eventstore.fold.projection import Projection, Source

ROOT = Path(__file__).resolve().parent.parent.parent

DIGITS = 16

# Where the engine decides what is folded from an event, and how it is written: how events are read, folded and
# collected, what is refused, and what becomes of a value in a column.
ENGINE = (
    "eventstore.log.copy_out.EventReader",
    "eventstore.fold.folding.Accumulator",
    "eventstore.log.streams.stream_name_if_not",
    "eventstore.fold.timeline.Shape",
    "eventstore.fold.columns.columns_of",
    "eventstore.fold.columns.values_of",
    "eventstore.fold.projection.STATE_COLUMNS",
    "eventstore.fold.projection.TIMELINE_COLUMNS",
    "eventstore.fold.projection.POSTING_COLUMNS",
    "eventstore.fold.writing.state_rows",
    "eventstore.fold.writing.copy_rows",
)


def fingerprint(
    projection: Projection[Any], sources: Mapping[str, Source], root: Path = ROOT
) -> str:
    """Take the fingerprint of what `projection` folds from `sources`: 16 hex digits.

    The project is what lies below `root`, from where its modules are imported. Raises TypeError for a callable or a
    type that has no source code there.
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
        "timeline": None if projection.timeline is None else projection.timeline.columns,
        "total": projection.total,
        "settings": {name: source.decoding_settings for name, source in concerned.items()},
        "code": walk.lines(),
        "engine": engine_code(ROOT),
        "msgspec": msgspec_version(),
        "time zones": time_zones() if walk.uses("zoneinfo") else None,
    }
    encoded = msgspec.json.encode(decisive, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:DIGITS]


@cache
def engine_code(root: Path) -> tuple[str, ...]:
    """What the engine's own part of a fold is, below `root`. Raises TypeError if some of it is not there."""
    walk = _Walk(root)
    for name in ENGINE:
        if not walk.start_at(name):
            message = f"{name} of the engine has no source in {root}"
            raise TypeError(message)
    return tuple(walk.lines())


def _roots(
    projection: Projection[Any], sources: Mapping[str, Source]
) -> Iterator[tuple[str, object]]:
    """Everything of a projection that decides what its fold gives, each with its role: where the walk starts."""
    yield "evolve", projection.evolve
    yield "state", projection.state
    if projection.timeline is not None:
        yield "placement", projection.timeline.placement
    for fact in sorted(projection.handles, key=lambda fact: (fact.__qualname__, fact.__module__)):
        yield f"fact {fact.__qualname__}", fact
    for name, source in sorted(sources.items()):
        yield f"decode of {name}", source.decode
        yield f"stream_of of {name}", source.stream_of


class _Walk:
    """A walk over the code below `root`. Definitions get numbers in its order, so that names of files do not count."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lines: list[str] = []
        self._definitions: list[_Definition] = []
        self._numbers: dict[_Definition, int] = {}
        self._started: dict[int, tuple[object, bool]] = {}
        self._elsewhere: set[str] = set()

    def start_at(self, dotted: str) -> bool:
        """Start from a definition by its full name; True if it is there."""
        found = _find_module(self._root, dotted)
        numbers = [] if found is None else list(self._resolve(*found))
        self._lines.append(f"root: {numbers}")
        return bool(numbers)

    def uses(self, project: str) -> bool:
        """Say whether something of another project is reached. Only after `lines`."""
        return any(name.partition(".")[0] == project for name in self._elsewhere)

    def start(self, role: str, value: object) -> bool:
        """Start from a callable and from what it was made with; True if any of that has source code here."""
        if isinstance(value, str | bytes | int | float | NoneType):
            self._lines.append(f"{role} = {value!a}")
            return False
        if id(value) not in self._started:
            # It may refer to itself; and the value is kept, so that no other gets its id.
            self._started[id(value)] = value, False
            parts = [self.start(f"{role} {n}", each) for n, each in enumerate(_made_with(value))]
            definition = _definition(self._root, value)
            if definition is not None:
                self._lines.append(f"{role}: {self._number(definition)}")
            self._started[id(value)] = value, definition is not None or any(parts)
        return self._started[id(value)][1]

    def lines(self) -> list[str]:
        """Every definition that is reached, in order: its statements, and what the names in them refer to."""
        for module, statements in self._definitions:
            dumps, names = _dump_and_names(statements)
            targets = [(name, *self._resolve(module, name)) for name in names]
            self._lines.append(f"{dumps} {targets}")
        return self._lines

    def _number(self, definition: "_Definition") -> int:
        if definition not in self._numbers:
            self._numbers[definition] = len(self._definitions)
            self._definitions.append(definition)
        return self._numbers[definition]

    def _resolve(self, module: "_Module", dotted: str) -> Iterator[int | str]:
        """What a name refers to: numbers of definitions, names of other projects; nothing if it is local."""
        name, _, rest = dotted.partition(".")
        if name in module.bound:
            yield self._number((module, tuple(module.bound[name])))
        for imported in module.imported.get(name, ()):
            target = f"{imported}.{rest}" if rest else imported
            if (found := _find_module(self._root, target)) is None:
                self._elsewhere.add(target)
                yield target
            else:
                # A module that is used as a value may be asked for any of its names.
                owner, inner = found
                for each in [inner] if inner else sorted(owner.bound):
                    yield from self._resolve(owner, each)


def _made_with(value: object) -> list[object]:
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
    """A module without what does not count: its statements, by the names that they bind, and its imports."""

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
                    _strip(node)
        not_ours = {*self.imported, *dir(builtins)}
        for statement in tree.body:
            for name in _bound(statement, not_ours):
                self.bound[name].append(statement)


# All statements of a module that bind one name, in their order.
_Definition: TypeAlias = tuple[_Module, tuple[ast.stmt, ...]]


def _definition(root: Path, value: object) -> _Definition | None:
    """Where a function or a class is defined; that of a closure is the function around it."""
    if not isinstance(value, type | FunctionType):
        return None
    module = None
    with suppress(TypeError, OSError):  # it is built in, or was entered at a prompt
        module = _module(root, Path(inspect.getfile(value)).resolve())
    if module is None:
        return None
    if isinstance(value, type):
        name, line = value.__qualname__, 0
    else:
        # A wrapper takes over another name, but its code keeps its own; a lambda has only its line.
        name, line = value.__code__.co_qualname, value.__code__.co_firstlineno
    around = [each for each in module.body if each.lineno <= line <= (each.end_lineno or line)]
    statements = module.bound.get(name.partition(".")[0], around)
    return (module, tuple(statements)) if statements else None


@cache
def _find_module(root: Path, dotted: str) -> tuple[_Module, str] | None:
    """The module of the project in which a dotted name is looked up, and the rest of the name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:length])
        module = _module(root, path / "__init__.py") or _module(root, path.with_suffix(".py"))
        if module is not None:
            return module, ".".join(parts[length:])
    return None


@cache
def _module(root: Path, file: Path) -> _Module | None:
    """A module of the project; a virtual environment inside of it is not part of it."""
    if file.suffix != ".py" or not file.is_relative_to(root) or not file.is_file():
        return None
    path = file.relative_to(root)
    if "site-packages" in path.parts:
        return None
    return _Module(ast.parse(file.read_bytes(), file), ".".join(path.parent.parts))


def _strip(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Remove from a definition what does not count: docstrings, and annotations that nothing depends on."""
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


def _bound(statement: ast.stmt, not_ours: Container[str]) -> set[str]:
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
            case ast.Name() if isinstance(node.ctx, ast.Store) or node.id not in not_ours:
                names.add(node.id)
    return names


@cache
def _dump_and_names(statements: tuple[ast.stmt, ...]) -> tuple[list[str], list[str]]:
    """Statements as texts, and the names that occur in them."""
    names = chain.from_iterable(map(_names, statements))
    return [*map(_dump, statements)], sorted(set(names))


def _dump(node: object) -> str:
    """A syntax tree as text, without positions and empty fields.

    Versions of Python differ in how ast.unparse quotes f-strings and in which fields ast.dump shows: after an upgrade
    every state would count as folded by other code.
    """
    if isinstance(node, list):
        return f"[{' '.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    return f"{type(node).__name__}({' '.join(f'{name}={_dump(value)}' for name, value in fields)})"


def _names(node: ast.AST) -> Iterator[str]:
    """The names in a syntax tree, with the attributes after them; those in quoted annotations, too."""
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
