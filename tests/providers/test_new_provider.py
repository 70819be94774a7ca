"""A new provider is one new file, and so is a new projection: nothing else has to know of them."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from benchmarks.harness.server_process import LoopledgerProcess, clean_environment
from tests.support import ROOT

ADDITIONS = ROOT / "tests" / "support" / "additions"
PRODUCT = ["commands", "eventstore", "migrations", "projections", "providers", "runtime"]
PRODUCT += ["simulation", "verification", "web", "schema.sql", "server.py"]
SECRET = "a-path-secret-of-some-length"  # noqa: S105 - made up


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project with one file more in `providers`, and one in `projections`."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in PRODUCT:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    shutil.copy(ADDITIONS / "acme.py", copy / "providers")
    shutil.copy(ADDITIONS / "vouchers.py", copy / "projections")
    return copy


class Copy:
    """A server of that copy, with its commands."""

    def __init__(self, checkout: Path, dsn: str, number: int) -> None:
        self._environ = {
            "DATABASE_URL": dsn,
            "ACME_SECRET": SECRET,
            "LOOPLEDGER_ACME_VERIFICATION": '{"path": [{"env": "ACME_SECRET"}]}',
            "LOOPLEDGER_LIMITS_POLL_SECONDS": "0.05",
        }
        self._checkout = checkout
        self._signed: list[str] = []
        data_dir = checkout.with_name(f"data-{number}")
        self._environ["LOOPLEDGER_DATA_DIR"] = str(data_dir)
        log = checkout.with_name(f"server-{number}.log")
        self.server = LoopledgerProcess(data_dir, log, environ=self._environ, checkout=checkout)
        self.server.wait_until_ready()

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """GET, as JSON."""
        with urlopen(self.server.url + path, timeout=10) as answer:  # noqa: S310 - our own
            return json.load(answer)

    def run(self, *arguments: str) -> str:
        """Run a command of the copy; gives back what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "commands", *arguments, "--url", self.server.url],
            cwd=self._checkout,
            env=clean_environment(self._environ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deliver(self, body: bytes | None = None) -> int:
        """Send the example delivery, as `loopledger sign` makes it, or another body; gives back its position."""
        words = self._signed = self._signed or shlex.split(self.run("sign", "acme"))
        headers = dict(words[n + 1].split(": ", 1) for n, word in enumerate(words) if word == "-H")
        data = body or words[words.index("--data-binary") + 1].encode()
        request = Request(words[2], data=data, headers=headers)  # noqa: S310 - our own
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - our own
            position: int = json.load(answer)["position"]
        return position

    def projection(self) -> Any:  # noqa: ANN401 - JSON
        """What the server says of the new projection."""
        return self.get("/v1/projections/vouchers")


@contextmanager
def running(checkout: Path, dsn: str, number: int = 1) -> Iterator[Copy]:
    """Run a server of the copy."""
    copy = Copy(checkout, dsn, number)
    try:
        yield copy
    finally:
        copy.server.stop()


def test_a_new_provider_and_a_new_projection_are_one_file_each(checkout: Path, dsn: str) -> None:
    with running(checkout, dsn) as copy:
        assert copy.deliver() == 1
        assert copy.deliver(b'{"what":"voucher.used","shop":"s-1","id":"v-1","worth":"4"}') == 2
        assert copy.deliver(b'{"what":"voucher.issued","shop":"s-2","id":"v-2","worth":"9"}') == 3

        voucher = copy.get("/v1/vouchers/v-1?at_least=3")
        assert (voucher["provider"], voucher["merchant_id"], voucher["worth"]) == (
            "acme",
            "s-1",
            "4",
        )
        listed = copy.get("/v1/vouchers?merchant_id=s-2")["items"]
        assert [each["id"] for each in listed] == ["v-2"]
        steps = copy.get("/v1/vouchers/v-1/history")["items"]
        assert [(step["topic"], step["verdict"]) for step in steps] == [
            ("voucher.issued", "applied"),
            ("voucher.used", "applied"),
        ]
        assert copy.get("/v1/events/1")["stream"] == "acme/s-1/voucher/v-1"

        before = copy.projection()
        assert (before["folded"], before["stale"]) == (3, False)
        copy.run("rebuild", "vouchers", "--promote")
        after = copy.projection()
        assert (after["generation"], after["folded"]) == (before["generation"] + 1, 3)
        assert copy.get("/v1/vouchers/v-1") == voucher


def test_a_change_of_the_new_provider_makes_its_states_stale_until_a_rebuild(
    checkout: Path, dsn: str
) -> None:
    with running(checkout, dsn) as copy:
        position = copy.deliver()
        assert copy.get(f"/v1/vouchers/v-1?at_least={position}")["worth"] == "10"
    mended = checkout / "providers" / "acme.py"
    text = mended.read_text("utf-8")
    worth = 'worth = text(body.worth, "worth")'
    assert worth in text
    mended.write_text(text.replace(worth, 'worth = f"{body.worth} points"'), "utf-8")
    with running(checkout, dsn, 2) as copy:
        assert copy.projection()["stale"]
        assert not copy.get("/v1/projections/locations")["stale"]
        copy.run("rebuild", "vouchers", "--promote")
        assert not copy.projection()["stale"]
        assert copy.get("/v1/vouchers/v-1")["worth"] == "10 points"
