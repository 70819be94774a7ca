"""Data directories of embedded servers, and servers in processes of their own."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.postgres.embedded import EmbeddedPostgres
from tests.support import ROOT
from tests.support.embedded import Serve, Server, copy, make_place, start_and_stop


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory that Postgres's user may enter, unlike pytest's own."""
    with make_place() as directory:
        yield directory


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A data directory after its first start and stop: copying it is quicker than an initdb."""
    with make_place() as directory:
        asyncio.run(start_and_stop(directory / "data"))
        yield directory / "data"


@pytest.fixture
def data(place: Path, template: Path) -> Path:
    return copy(template, place)


@pytest.fixture(scope="session")
def shared(template: Path) -> Iterator[EmbeddedPostgres]:
    """A server for the tests that only look."""
    with make_place() as directory:
        server = EmbeddedPostgres(copy(template, directory))
        asyncio.run(server.start())
        yield server
        asyncio.run(server.stop())


@pytest.fixture
async def postgres(data: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with EmbeddedPostgres(data) as server:
        yield server


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes = []

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
        process = subprocess.Popen([str(each) for each in arguments], text=True, **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def serve(spawn: Callable[..., subprocess.Popen[str]]) -> Serve:
    def start(data_dir: Path, *user: str, wait: bool = True) -> Server:
        process = spawn(
            sys.executable,
            ROOT / "tests" / "support" / "embedded_server.py",
            data_dir,
            *user,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        if not wait:
            return Server(process, {})
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the server ended without a word"
        return Server(process, json.loads(line))

    return start
