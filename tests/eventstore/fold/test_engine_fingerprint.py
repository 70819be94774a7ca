"""The engine's part of a fingerprint: what changes it, and what does not."""

import itertools
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import pytest

from eventstore.fold import dependencies, fingerprint
from eventstore.fold.dependencies import msgspec_version, time_zones
from eventstore.fold.fingerprint import ENGINE, ROOT, engine_code
from tests.eventstore.fold.test_fingerprint import real

# What the engine's part is, after a change of one of its files: what is replaced by what.
Take: TypeAlias = Callable[..., tuple[str, ...]]


@pytest.fixture
def take(tmp_path: Path) -> Take:
    numbers = itertools.count()

    def take_one(file: str = "", old: str = "", new: str = "") -> tuple[str, ...]:
        root = tmp_path / str(next(numbers))
        shutil.copytree(
            ROOT / "eventstore", root / "eventstore", ignore=shutil.ignore_patterns("__pycache__")
        )
        if file:
            text = (root / "eventstore" / file).read_text("utf-8")
            assert old in text
            (root / "eventstore" / file).write_text(text.replace(old, new, 1), "utf-8")
        return engine_code(root)

    return take_one


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("fold/columns.py", "LONGEST_INDEXED = 1_900", "LONGEST_INDEXED = 1_901"),
        ("fold/columns.py", 'if "\\0" in value', 'if "\\1" in value'),
        ("fold/columns.py", "-(2**63) <= value", "-(2**31) <= value"),
        ("fold/columns.py", 'Decimal: "numeric"', 'Decimal: "double precision"'),
        ("fold/columns.py", "::{column.sql_type}", "::text"),
        ("fold/columns.py", "elif origin is Literal", "elif origin is None"),
        ("fold/folding.py", "if after is not state:", "if after != state:"),
        ("fold/recording.py", "if of is UnsetType", "if of is not UnsetType"),
        ("fold/recording.py", "or not was:", "or was is None:"),
        ("fold/folding.py", "if BACKSLASH in body", "if SLASH in body"),
        ("fold/folding.py", "after is not before and after != before", "after is not before"),
        ("fold/folding.py", "            if failures:\n", "            if not failures:\n"),
        ("fold/folding.py", "if stream != event.stream and", "if stream == event.stream and"),
        ("fold/refiling.py", "return event.stream", 'return ""'),
        ("log/streams.py", '"%" not in known', '"/" not in known'),
        (
            "fold/recording.py",
            "event.position, event.recorded_at,",
            "event.position, event.received_at,",
        ),
        ("fold/timeline.py", "elif deleted and row[FACT]", "elif row[FACT]"),
        ("fold/timeline.py", "with_it == without", "with_it is without"),
        ("fold/projection.py", 'Column("position", "bigint")', 'Column("position", "integer")'),
        ("fold/projection.py", '"recorded_at", "timestamp', '"recorded_on", "timestamp'),
        ("fold/writing.py", "(stream, position, *msgspec", "(stream, 0, *msgspec"),
        ("fold/writing.py", 'null="null"', 'null=""'),
        ("fold/writing.py", 'b"t": b"\\t"', 'b"t": b" "'),
        ("log/copy_out.py", "datetime(2000, 1, 1,", "datetime(2000, 1, 2,"),
        ("log/copy_out.py", "partition(_SEPARATOR)", 'partition(" ")'),
        ("log/events.py", "    received_at: datetime\n    recorded_at", "    recorded_at"),
    ],
)
def test_what_decides_the_fold_changes_it(take: Take, file: str, old: str, new: str) -> None:
    assert take(file, old, new) != take()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("fold/columns.py", "# Bytes. An entry of a B-tree", "# An entry of a B-tree"),
        ("fold/columns.py", "def mask(value", "def hide(value"),
        (
            "fold/folding.py",
            '"""The state after the fact of an event',
            '"""The state after a fact',
        ),
        ("fold/folding.py", "event: Event\n) -> Folded:", "event: object\n) -> Folded:"),
        ("fold/folding.py", "\n\n\ndef handles", "\n\n\n\n\ndef handles"),
        ("fold/generation.py", "async def drop(", "async def drop_all("),
        ("fold/writing.py", "async def load_states", "async def load_them"),
        ("fold/projector.py", "MAX_REST_SECONDS = 0.1", "MAX_REST_SECONDS = 0.2"),
        ("fold/generation.py", "75 if self.updated", "80 if self.updated"),
    ],
)
def test_what_does_not_decide_the_fold_leaves_it_alone(
    take: Take, file: str, old: str, new: str
) -> None:
    assert take(file, old, new) == take()


def test_a_module_of_the_engine_that_is_renamed_leaves_it_alone(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = take()
    root = tmp_path / "renamed"
    shutil.copytree(ROOT / "eventstore", root / "eventstore")
    (root / "eventstore/fold/folding.py").rename(root / "eventstore/fold/collecting.py")
    for file in root.rglob("*.py"):
        text = file.read_text("utf-8")
        file.write_text(text.replace("fold.folding", "fold.collecting"), "utf-8")
    renamed = tuple(name.replace("fold.folding", "fold.collecting") for name in ENGINE)
    monkeypatch.setattr(fingerprint, "ENGINE", renamed)
    assert engine_code(root) == before


def test_a_part_of_the_engine_that_is_gone_is_named(take: Take) -> None:
    with pytest.raises(TypeError, match="Accumulator of the engine has no source"):
        take("fold/folding.py", "class Accumulator", "class Collector")


def test_the_engine_counts_for_every_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    before = real()
    monkeypatch.setattr(fingerprint, "engine_code", lambda _: ("another",))
    assert not set(real().values()) & set(before.values())


def test_the_version_of_msgspec_counts_for_every_projection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert msgspec_version() == version("msgspec")
    before = real()
    monkeypatch.setattr(fingerprint, "msgspec_version", lambda: "0.0.1")
    assert not set(real().values()) & set(before.values())


def test_the_rules_of_time_zones_count_where_a_provider_sends_local_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = real()
    monkeypatch.setattr(fingerprint, "time_zones", lambda: "system 1970a")
    after = real()
    assert {name for name in before if before[name] != after[name]} == {"transactions"}


def test_the_systems_time_zones_are_used_where_there_are_any(tmp_path: Path) -> None:
    assert time_zones([str(tmp_path)]) == f"tzdata {version('tzdata')}"
    (tmp_path / "Etc").mkdir()
    (tmp_path / "Etc" / "UTC").write_bytes(b"TZif")
    hashed = time_zones([str(tmp_path)])
    assert hashed.startswith("system ")
    dependencies._system_version.cache_clear()
    (tmp_path / "Etc" / "UTC").write_bytes(b"TZif2")
    assert time_zones([str(tmp_path)]) != hashed
    dependencies._system_version.cache_clear()
    (tmp_path / "tzdata.zi").write_text("# version 2025b\n# more\n")
    assert time_zones([str(tmp_path)]) == "system 2025b"
