"""An interpreter with the product and what it needs, where every user may read it: in hard links, to be quick."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

PRODUCT = (
    *("commands", "eventstore", "migrations", "projections", "providers", "runtime"),
    *("simulation", "verification", "web", "schema.sql", "server.py"),
)

# Large, and nothing of the product.
LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "site-packages", "config-*")
NOT_NEEDED = ("mypy*", "*mypyc*", "ruff*", "grimp*", "psycopg*", "pip*", "sqlglot*")


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        # On another disk.
        shutil.copy2(source, target)
    return target


def _copy(source: Path, target: Path, *left_out: str) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns(*left_out)
        shutil.copytree(source, target, ignore=ignored, copy_function=_link)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(str(source), str(target))


def make_public_python(directory: Path) -> tuple[Path, Path]:
    """Make it in a directory that everybody may enter; gives back the interpreter, and where the product is."""
    base, version = (
        Path(sys.base_prefix),
        f"python{sys.version_info.major}.{sys.version_info.minor}",
    )
    python = directory / "bin" / version
    _copy(Path(sys.executable).resolve(), python)
    for library in _libraries(base):
        _copy(library, directory / "lib" / library.name)
    _copy(base / "lib" / version, directory / "lib" / version, *LEFT_OUT)
    packages = Path(sysconfig.get_path("purelib"))
    _copy(packages, directory / "lib" / version / "site-packages", *NOT_NEEDED)
    product = directory / "loopledger"
    for name in PRODUCT:
        _copy(ROOT / name, product / name, "__pycache__")
    for each in [directory, *(path for path in directory.rglob("*") if path.is_dir())]:
        each.chmod(0o755)
    return python, product


def _libraries(base: Path) -> Iterator[Path]:
    """The shared library of the interpreter, if it has one."""
    name = sysconfig.get_config_var("INSTSONAME")
    if name and (library := base / "lib" / name).is_file():
        yield library
