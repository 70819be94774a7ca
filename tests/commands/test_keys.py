"""Keys by commands, against a server of several processes."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from benchmarks.harness.server_process import clean_environment
from runtime.address import KEYS
from tests.support import ROOT
from tests.support.server_process import ServerProcess


class Site:
    """A server of four processes that take requests, and commands beside it."""

    def __init__(self, data_dir: Path) -> None:
        self.server = ServerProcess(data_dir, arguments=["--workers", "4"])

    def command(self, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of `loopledger` as an operator on the machine of the server."""
        settings = {"LOOPLEDGER_DATA_DIR": str(self.server.data_dir), **environ}
        return subprocess.run(
            [sys.executable, "-m", "commands", *words],
            cwd=ROOT,
            env=clean_environment(settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self, path: str, key: str | None, method: str = "GET") -> int:
        """The status of an answer; each request by a connection of its own."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        request = Request(self.server.url + path, headers=headers, method=method)  # noqa: S310 - our own address
        try:
            with urlopen(request, timeout=10) as response:  # noqa: S310
                return int(response.status)
        except HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def site(public_directory: Path) -> Iterator[Site]:
    found = Site(public_directory / "keys")
    yield found
    found.server.stop()


@pytest.fixture(scope="module")
def key(site: Site) -> str:
    """A key for reading, the first of all."""
    done = site.command("keys", "create", "--name", "reports", "--scope", "read", "metrics")
    assert done.returncode == 0, done.stderr
    assert "It is the first" in done.stderr
    return done.stdout.strip()


def test_a_key_is_printed_once_and_nothing_keeps_it(site: Site, key: str) -> None:
    listed = site.command("keys", "list")
    assert "reports" in listed.stdout
    assert key not in listed.stdout
    assert site.status("/v1/events", key) == 200
    assert site.status("/v1/events", None) == 401
    assert key not in site.server.output()
    (item,) = json.loads(site.command("keys", "list", "--json").stdout)["items"]
    assert (item["name"], item["scopes"], item["merchants"]) == (
        "reports",
        ["read", "metrics"],
        None,
    )


def test_every_process_takes_the_local_key_and_none_reveals_with_it(site: Site, key: str) -> None:
    local = site.server.local_key
    assert local is not None
    statuses = {site.status("/v1/projections", local) for _ in range(20)}
    assert statuses == {200}
    assert site.status("/v1/events/1/body", local) == 403
    assert site.command("projections", LOOPLEDGER_KEY=key).returncode == 0
    assert site.command("rebuild", "locations", "--discard", LOOPLEDGER_KEY=key).returncode == 1


def test_the_local_key_is_for_its_user_and_outside_the_database(site: Site) -> None:
    directory = site.server.data_dir / KEYS
    (file,) = directory.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    local = site.server.local_key
    assert local is not None
    assert local not in site.server.output()
    for pid in [site.server.process.pid, *site.server.workers("http")]:
        found = psutil.Process(pid)
        assert local not in str(found.environ())
        assert local not in str(found.cmdline())


def test_a_local_key_goes_to_no_other_server(site: Site) -> None:
    other = site.server.url.replace("127.0.0.1", "127.0.0.2")
    done = site.command("keys", "list", "--url", other)
    assert done.returncode == 2
    done = site.command("keys", "list", "--url", site.server.url.replace("127.0.0.1", "localhost"))
    assert done.returncode == 0, done.stderr


def test_a_revoked_key_is_refused_by_every_process_within_a_second(site: Site) -> None:
    made = site.command("keys", "create", "--name", "brief", "--scope", "read", "--json")
    text = json.loads(made.stdout)["key"]
    # Each process has seen it.
    assert {site.status("/v1/events", text) for _ in range(40)} == {200}
    answered: list[tuple[float, int]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            began = time.monotonic()
            answered.append((began, site.status("/v1/events", text)))

    thread = threading.Thread(target=ask)
    thread.start()
    done = site.command("keys", "revoke", "brief")
    revoked = time.monotonic()
    time.sleep(1.5)
    over.set()
    thread.join()
    assert done.returncode == 0, done.stderr
    # Whoever goes on is told to wait.
    assert {status for began, status in answered if began > revoked + 1} <= {401, 429}
    assert site.command("keys", "revoke", "brief").returncode == 1


def test_what_makes_no_sense_is_refused_with_a_reason(site: Site, key: str) -> None:
    create = ("keys", "create", "--scope", "read")
    assert "is in force already" in site.command(*create, "--name", "reports").stderr
    bound = site.command(*create, "admin", "--name", "n", "--merchant", "m-1").stderr
    assert "cannot be for admin" in bound
    past = site.command(*create, "--name", "n", "--expires", "2020-01-01")
    assert (past.returncode, "must be a time to come" in past.stderr) == (2, True)
    refused = site.command("keys", "list", "--key", key)
    assert (refused.returncode, "scope admin" in refused.stderr) == (1, True)
    assert key not in refused.stderr


def test_a_command_without_a_key_says_how_to_come_by_one(site: Site, tmp_path: Path) -> None:
    elsewhere = {"LOOPLEDGER_DATA_DIR": str(tmp_path / "none"), "LOOPLEDGER_URL": site.server.url}
    done = site.command("projections", **elsewhere)
    assert done.returncode == 1
    assert "--key or LOOPLEDGER_KEY" in done.stderr
