"""Versions of what is not of this project and decides what a fold gives: msgspec, and the rules of time zones.

zoneinfo takes the system's files where there are any (`zoneinfo.TZPATH`), and else those of the package tzdata.
"""

import hashlib
import zoneinfo
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

# A zone that every system has which has any.
_ANY_ZONE = "Etc/UTC"

_DIGITS = 12


def msgspec_version() -> str:
    """The version of msgspec, which decodes and converts."""
    return version("msgspec")


def time_zones(path: Sequence[str] | None = None) -> str:
    """Whose rules of time zones are used, and which: "system 2025b", or "tzdata 2025.2" for the package."""
    for directory in map(Path, zoneinfo.TZPATH if path is None else path):
        if (directory / _ANY_ZONE).is_file():
            return f"system {_system_version(directory)}"
    return f"tzdata {version('tzdata')}"


@cache
def _system_version(directory: Path) -> str:
    """The version of the system's files, by what they say themselves; else a hash of their content."""
    # The file that the others are made from, and where macOS says it.
    for name in ("tzdata.zi", "+VERSION"):
        file = directory / name
        if file.is_file():
            with file.open(encoding="utf-8") as lines:
                return lines.readline().removeprefix("# version ").strip()
    content = hashlib.sha256()
    for file in sorted(each for each in directory.rglob("*") if each.is_file()):
        content.update(file.read_bytes())
    return content.hexdigest()[:_DIGITS]
