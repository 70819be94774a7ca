"""Started by root: whom the worker processes run as, and how they cease to be root."""

import contextlib
import ctypes
import os
import pwd
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import structlog

from eventstore.errors import SettingsError
from eventstore.postgres.processes import Account, path_to, run

logger = structlog.get_logger()

# Workers run as the first of these that there is and that Postgres does not run as: what takes deliveries must not own
# the files of the log.
ACCOUNTS = ("nobody", "daemon")

# Whoever says so stays root.
ROOT = "root"

# prctl(2).
PR_SET_NO_NEW_PRIVS = 38

# Parameters of a database's URL that name files.
FILES = frozenset({"passfile", "service", "sslcert", "sslkey", "sslrootcert", "sslcrl"})


def choose_account(name: str | None, postgres: Account, *needed: Path) -> Account:
    """Choose whom the workers run as; None is whoever we are. `postgres` is whom Postgres runs as, if it is ours.

    If the user cannot read our code, or enter the directories `needed`, the workers stay root, with a warning. Raises
    SettingsError.
    """
    if os.geteuid() != 0 or name == ROOT:
        return None
    account = _find(name, postgres)
    if account is None:
        _warn("there is no unprivileged user for them", "make one, and set LOOPLEDGER_WORKER_USER")
        return None
    if (barred := _first_unreadable(account, needed)) is not None:
        _warn(
            f"the user {account.pw_name} may not read {barred}",
            "install Python and Loopledger where every user can read them, for example below /opt; "
            "or run Loopledger as an ordinary user; or accept it: LOOPLEDGER_WORKER_USER=root",
        )
        return None
    return account


def keeps_root_for(database_url: str, name: str | None) -> bool:
    """Whether workers stay root because a database's URL may need files of root's, with a warning."""
    if os.geteuid() != 0 or name is not None:
        return False
    parts = urlsplit(database_url)
    parameters = {key.lower(): values[0] for key, values in parse_qs(parts.query).items()}
    why = None
    if parts.password is None and "password" not in parameters:
        why = "DATABASE_URL holds no password, so that root's own login may depend on it"
    elif FILES & set(parameters) or parameters.get("sslmode", "").startswith("verify"):
        why = "DATABASE_URL names files that only root may be able to read"
    elif Path("~/.postgresql").expanduser().exists():
        why = "there are certificates in root's ~/.postgresql"
    if why is not None:
        _warn(
            why, "see that a user can log in without root's files, and set LOOPLEDGER_WORKER_USER"
        )
    return why is not None


def drop_privileges(name: str) -> None:
    """Become this user for good: with its group alone, and without a way back."""
    account = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    # Where drivers look for passwords and certificates.
    os.environ["HOME"] = account.pw_dir
    with contextlib.suppress(OSError, AttributeError):
        # Not by a program that is set-uid either.
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with contextlib.suppress(PermissionError):
        os.setuid(0)
        message = f"this process could become root again after it became {name}"
        raise RuntimeError(message)


def _find(name: str | None, postgres: Account) -> Account:
    for each in [name] if name else ACCOUNTS:
        try:
            account = pwd.getpwnam(each)
        except KeyError:
            if name:
                raise SettingsError(
                    key="worker_user",
                    problem=f"names the user {name!r}, who does not exist",
                    source="settings",
                ) from None
            continue
        if postgres is None or account.pw_uid != postgres.pw_uid:
            return account
        if name:
            raise SettingsError(
                key="worker_user",
                problem=f"names {name!r}, whom Postgres runs as: the files of the log are that user's",
                source="settings",
            )
    return None


def _first_unreadable(account: Account, needed: tuple[Path, ...]) -> str | None:
    """The first file of our code that the user cannot read, or directory that it cannot enter, if any."""
    files = {Path(sys.executable).resolve(), Path(__file__)}
    for module in list(sys.modules.values()):
        if (file := getattr(module, "__file__", None)) and (path := Path(file)).is_file():
            files.add(path)
    script = (
        'for each do if [ -d "$each" ]; then [ -x "$each" ]; else [ -r "$each" ]; fi '
        '|| { printf %s "$each"; exit 1; }; done'
    )
    ways = [each for directory in needed for each in path_to(directory) if each.exists()]
    status, barred = run(account, ["/bin/sh", "-c", script, "sh", *ways, *sorted(files)], Path("/"))
    return barred if status != 0 else None


def _warn(why: str, advice: str) -> None:
    logger.warning(
        "workers_privileged",
        message="The processes that take deliveries stay root.",
        why=why,
        advice=advice,
    )
