"""The systemd unit and the container file: what they name is there, and what they do works."""

import configparser
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.harness.server_process import LoopledgerProcess
from eventstore.limits import Limits
from runtime.settings import load_settings
from tests.support import ROOT

UNIT = ROOT / "ops" / "loopledger.service"
CONTAINER = ROOT / "ops" / "Containerfile"
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")


class Step(NamedTuple):
    """An instruction of a container file."""

    keyword: str
    rest: str


def steps() -> list[Step]:
    lines = CONTAINER.read_text("utf-8").splitlines()
    return [Step(*line.split(" ", 1)) for line in lines if line and not line.startswith("#")]


def of(keyword: str) -> list[str]:
    return [step.rest for step in steps() if step.keyword == keyword]


def copied() -> list[str]:
    """What is copied from the source."""
    pairs = [rest.split() for rest in of("COPY") if not rest.startswith("--from")]
    return [name for *sources, _ in pairs for name in sources]


def settings_of_container() -> dict[str, str]:
    return dict(rest.split("=", 1) for rest in of("ENV"))


class Unit(configparser.RawConfigParser):
    """A unit file: the last of several lines of one name counts, `Environment` apart."""

    optionxform = staticmethod(str)  # type: ignore[assignment]


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    found = Unit(strict=False)
    found.read(UNIT)
    return dict(found["Service"])


# The unit.


def test_a_stop_has_time_for_all_that_the_limits_allow(service: dict[str, str]) -> None:
    limits = Limits()
    needed = limits.drain_seconds + 1 + limits.stop_seconds
    assert float(service["TimeoutStopSec"]) > 2 * needed
    # Else systemd would tell Postgres to stop before those who use it.
    assert service["KillMode"] == "mixed"


def test_the_data_lies_where_the_unit_lets_it(service: dict[str, str]) -> None:
    data = re.search(
        r"^Environment=LOOPLEDGER_DATA_DIR=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE
    )
    assert data is not None
    assert data[1] == f"/var/lib/{service['StateDirectory']}"
    assert service["WorkingDirectory"] == f"/etc/{service['ConfigurationDirectory']}"


def test_the_settings_of_unit_and_container_are_settings() -> None:
    unit = re.findall(r"^Environment=(\w+)=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)
    for environ in (dict(unit), settings_of_container()):
        load_settings(environ, {})


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    # Not by its own path, which may have a space in it.
    program = tmp_path / "loopledger"
    program.symlink_to(sys.executable)
    text = UNIT.read_text("utf-8").replace("/opt/loopledger/bin/loopledger", str(program))
    text = text.replace("User=loopledger", "User=daemon").replace(
        "Group=loopledger", "Group=daemon"
    )
    (tmp_path / "loopledger.service").write_text(text)
    # Known to systemd or not, every line is a name and a value.
    assert re.findall(r"^(?!#|\[|$|\w+=).*$", text, re.MULTILINE) == []
    if (analyze := shutil.which("systemd-analyze")) is not None:
        result = subprocess.run(
            [analyze, "verify", str(tmp_path / "loopledger.service")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")


# The container.


def test_a_container_is_made_of_an_image_by_its_plain_name_and_does_not_run_as_root() -> None:
    for image in of("FROM"):
        assert re.fullmatch(r"python:3\.\d+-slim( AS \w+)?", image)
    assert of("USER") == ["loopledger"]
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(of("VOLUME")[0]) == [settings_of_container()["LOOPLEDGER_DATA_DIR"]]
    assert not re.search(r"https?://(?!127\.0\.0\.1)", CONTAINER.read_text("utf-8"))


def test_all_that_is_installed_is_copied_and_all_that_is_copied_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["include"]
    assert {name.removeprefix("/") for name in wheel} <= set(copied())
    assert [name for name in copied() if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def installed(public_directory: Path) -> Path:
    """A virtual environment that the steps of the file were done in, with the source that they copy and no other."""
    place = public_directory / "container"
    source = place / "source"
    source.mkdir(parents=True)
    for name in copied():
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    environment = place / "environment"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60
    )
    # What the lock file names is here already; Loopledger itself is not, as a path in a .pth file reads no other.
    libraries = sysconfig.get_path("purelib")
    own = sysconfig.get_path(
        "purelib", vars={"base": str(environment), "platbase": str(environment)}
    )
    Path(own, "libraries.pth").write_text(f"{libraries}\n")
    (install,) = (rest for rest in of("RUN") if rest.endswith("--no-deps ."))
    words = shlex.split(install)
    words[:3] = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    subprocess.run(words, cwd=source, check=True, timeout=300, capture_output=True)
    return environment


class Running(NamedTuple):
    """A server that was started as the container does it, and what it told systemd."""

    server: LoopledgerProcess
    told: socket.socket


@pytest.fixture(scope="module")
def running(installed: Path, public_directory: Path) -> Iterator[Running]:
    (entry,), (command,) = of("ENTRYPOINT"), of("CMD")
    words = [*json.loads(entry), *json.loads(command)]
    words[0] = str(installed / "bin" / words[0])
    environ = settings_of_container() | {
        # Only this machine is to reach it.
        "LOOPLEDGER_HOST": "127.0.0.1",
        "LOOPLEDGER_LIMITS_WAL_READY_MIB": "0",
    }
    for name in ("LOOPLEDGER_DATA_DIR", "LOOPLEDGER_PORT", "PATH"):
        del environ[name]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        address = public_directory / "notify"
        told.bind(str(address))
        told.settimeout(30)
        data_dir = public_directory / "container-data"
        server = LoopledgerProcess(
            data_dir,
            data_dir.with_suffix(".log"),
            command=words,
            environ={**environ, "NOTIFY_SOCKET": str(address)},
        )
        try:
            yield Running(server, told)
        finally:
            if server.running:
                server.stop(signal.SIGKILL)


def test_the_steps_of_the_file_make_a_server_that_its_healthcheck_finds_well(
    running: Running, installed: Path
) -> None:
    (check,) = of("HEALTHCHECK")
    words = json.loads(check.partition(" CMD ")[2])
    words[0] = str(installed / "bin" / words[0])

    def health(port: int) -> int:
        environ = {"LOOPLEDGER_PORT": str(port)}
        return subprocess.run(
            words, env=environ, capture_output=True, timeout=30, check=False
        ).returncode

    deadline = time.monotonic() + 60
    while health(running.server.port) != 0:
        assert running.server.running, running.server.output()
        assert time.monotonic() < deadline, running.server.output()
    assert health(9) != 0


def test_a_service_says_when_it_serves_and_when_it_stops(running: Running) -> None:
    assert running.told.recv(100) == b"READY=1"
    assert running.server.running
    assert running.server.stop(signal.SIGTERM) == 0
    assert running.told.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("file", [UNIT, CONTAINER], ids=lambda file: file.name)
def test_the_page_for_operators_says_how_to_use_it(file: Path) -> None:
    assert f"(../ops/{file.name})" in PAGE
