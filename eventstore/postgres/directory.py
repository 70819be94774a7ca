"""A directory that is held open: nothing in it is reached through a link, or taken over from somebody else.

Whoever may write beside us (in a directory that was theirs before, or as the user that Postgres runs as) could put a
link in the place of a file between a look at it and its use. So each step goes by the descriptor of the directory.
"""

import contextlib
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, Self

from eventstore.errors import PostgresError

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not to be held up by a FIFO either.
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

# What file systems and their tools leave at the top of a volume.
_OTHERS: Final = frozenset({"lost+found"})


class Directory:
    """An open directory. `owners` are the uids to which what is in it may belong. Raises PostgresError, OSError."""

    def __init__(self, path: Path, owners: Collection[int], fd: int | None = None) -> None:
        self.path = path
        self._owners = owners
        self._fd = os.open(path, _DIRECTORY) if fd is None else fd
        self._is_ours = os.fstat(self._fd).st_uid == os.geteuid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def check_owner(self, owners: Collection[int]) -> None:
        """Raise PostgresError if it belongs to none of these uids."""
        _check_owner(self.path, os.fstat(self._fd), owners)

    def check_entries(self, known: Iterable[str]) -> None:
        """Raise PostgresError for what is not known, is a link, or belongs to somebody else."""
        names = set(known)
        for name in sorted(os.listdir(self._fd)):  # noqa: PTH208 - pathlib knows no descriptors
            if name.startswith(".") or name in _OTHERS:
                continue
            if name not in names:
                raise PostgresError(
                    problem=f"{self.path} holds {name}, which is not Loopledger's",
                    remedy="Set LOOPLEDGER_DATA_DIR to a directory of its own, or remove that.",
                )
            self._check(name, None)

    def enter(self, name: str) -> "Directory":
        """Open a directory in it."""
        self._check(name, stat.S_IFDIR)
        found = Directory(
            self.path / name, self._owners, os.open(name, _DIRECTORY, dir_fd=self._fd)
        )
        try:
            found.check_owner(self._owners)
        except BaseException:
            found.close()
            raise
        return found

    def make(self, name: str, mode: int, owner: int, group: int) -> "Directory":
        """Open a directory in it, made if it is missing, and give it this mode, owner and group."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._fd)
        found = self.enter(name)
        try:
            found.set_access(mode, owner, group)
        except BaseException:
            found.close()
            raise
        return found

    def set_access(self, mode: int, owner: int, group: int) -> None:
        """Give it a mode; and an owner and a group, if we are root."""
        os.fchmod(self._fd, mode)
        if os.geteuid() == 0:
            os.fchown(self._fd, owner, group)

    def exists(self, name: str) -> bool:
        """Whether there is anything of this name, be it a link."""
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            return True
        return False

    def open(self, name: str, flags: int) -> int:
        """Open a plain file in it, as `os.open` does; one that is made has mode 0600."""
        try:
            fd = os.open(name, flags | _FILE, 0o600, dir_fd=self._fd)
        except OSError:
            # Of a link the system says only that there are too many of them.
            self._check(name, stat.S_IFREG)
            raise
        try:
            self._check_file(name, os.fstat(fd), stat.S_IFREG)
            os.set_blocking(fd, True)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def read(self, name: str) -> str | None:
        """What a file in it holds; None if there is none."""
        try:
            fd = self.open(name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
            return file.read()

    def write(
        self, name: str, text: str, *, owner: int, group: int, wait_for_disk: bool = True
    ) -> None:
        """Put a file of mode 0600 in it, whole or not at all, in the place of one that is there."""
        new = f"{name}.new"
        self.unlink(new)
        fd = self.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if os.geteuid() == 0:
                os.fchown(fd, owner, group)
            if wait_for_disk:
                os.fsync(fd)
        os.rename(new, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        if wait_for_disk:
            self.sync()

    def rename(self, name: str, new_name: str) -> None:
        """Rename what is in it, and replace a file."""
        os.rename(name, new_name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def unlink(self, name: str) -> None:
        """Remove a file, a socket or a link, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def sync(self) -> None:
        """Wait until its entries are on disk."""
        os.fsync(self._fd)

    def _check(self, name: str, kind: int | None) -> None:
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        self._check_file(name, found, kind)

    def _check_file(self, name: str, found: os.stat_result, kind: int | None) -> None:
        path = self.path / name
        if stat.S_ISLNK(found.st_mode):
            raise PostgresError(
                problem=f"{path} is a link, and nothing below the data directory may be one",
                remedy="Replace it by what it points to, or mount that there.",
            )
        if kind is not None and stat.S_IFMT(found.st_mode) != kind:
            what = "a directory" if kind == stat.S_IFDIR else "a plain file"
            raise PostgresError(problem=f"{path} is not {what}", remedy="Remove it.")
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and not self._is_ours:
            raise PostgresError(
                problem=f"{path} has a second name elsewhere (a hard link)",
                remedy="Replace it by a copy of itself.",
            )
        _check_owner(path, found, self._owners)


def _check_owner(path: Path, found: os.stat_result, owners: Collection[int]) -> None:
    if found.st_uid not in owners:
        raise PostgresError(
            problem=f"{path} belongs to the user {found.st_uid}, who is neither this process's nor Postgres's",
            remedy="Set LOOPLEDGER_DATA_DIR to a directory of its own; or, if it is Loopledger's, start it as the "
            "user that made it, or have LOOPLEDGER_POSTGRES_USER name that user.",
        )
