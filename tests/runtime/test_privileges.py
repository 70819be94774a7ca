"""Started by root: whom the workers run as, and that they cannot become root again."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from eventstore.errors import SettingsError
from runtime import privileges
from runtime.privileges import choose_account, keeps_root_for
from tests.support import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")

DROP = """
import ctypes, os
from pathlib import Path
from runtime.privileges import drop_privileges
os.setgroups([0, 4])
drop_privileges("daemon")
def tried(what):
    try:
        what()
    except PermissionError:
        return "refused"
    return "done"
print(os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"])
print(*map(tried, (
    lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]),
    lambda: list(Path("/root").iterdir()), lambda: Path("/etc/shadow").read_text(),
    lambda: os.kill(os.getppid(), 0),
)))
print(Path("/proc/self/status").read_text().split("NoNewPrivs:")[1].split()[0])
"""


def test_a_process_that_ceases_to_be_root_does_so_for_good() -> None:
    found = subprocess.run(
        [sys.executable, "-c", DROP], cwd=ROOT, capture_output=True, text=True, check=True
    )
    account = pwd.getpwnam("daemon")
    ids, tries, no_new = found.stdout.splitlines()
    uid, gid = (account.pw_uid,) * 3, (account.pw_gid,) * 3
    assert ids == f"{uid} {gid} [] {account.pw_dir}"
    assert set(tries.split()) == {"refused"}
    assert no_new == "1"


def test_workers_never_run_as_whom_postgres_runs_as(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "_first_unreadable", lambda *_: None)
    for postgres, workers in (("nobody", "daemon"), ("daemon", "nobody")):
        account = choose_account(None, pwd.getpwnam(postgres))
        assert account is not None
        assert account.pw_name == workers
    with pytest.raises(SettingsError, match="whom Postgres runs as"):
        choose_account("nobody", pwd.getpwnam("nobody"))
    with pytest.raises(SettingsError, match="who does not exist"):
        choose_account("no-such-user", None)
    assert choose_account("root", None) is None


def test_what_the_user_cannot_reach_keeps_the_workers_root_with_one_warning(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    with capture_logs() as logs:
        assert choose_account(None, None, tmp_path / "closed") is None
    ((event, why),) = [(each["event"], each["why"]) for each in logs]
    assert event == "workers_privileged"
    assert "may not read" in why


@pytest.mark.parametrize(
    ("url", "keeps"),
    [
        ("postgresql://me:secret@host/db", False),
        ("postgresql://host/db?user=me&password=secret", False),
        ("postgresql://me@host/db", True),
        ("postgresql://me:secret@host/db?sslkey=/root/key.pem", True),
        ("postgresql://me:secret@host/db?sslmode=verify-full", True),
    ],
)
def test_a_url_that_needs_roots_files_keeps_the_workers_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, *, keeps: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keeps_root_for(url, None) is keeps
    assert not keeps_root_for(url, "daemon")
