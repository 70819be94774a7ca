"""A suite of tests that hang each in its own way, run in a process of its own: it ends, and says where they hung."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

SUITE = """
import asyncio
import subprocess
import time

import uvloop

from tests.support import timeouts

timeouts.GRACE_SECONDS = 1.0


async def wait_for_nothing():
    await asyncio.Event().wait()


async def test_a_coroutine():
    await wait_for_nothing()


def test_a_subprocess():
    subprocess.run(["sleep", "600"])


async def test_a_blocked_loop():
    time.sleep(600)


async def test_a_clean_up():
    try:
        await wait_for_nothing()
    finally:
        while True:
            time.sleep(600)


def test_uvloop():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(wait_for_nothing())


def test_the_rest():
    pass
"""

OPTIONS = ["--numprocesses=1", "--timeout=1", "--timeout-method=signal", "--asyncio-mode=auto"]


def test_a_test_that_hangs_is_reported_with_its_stacks_and_the_rest_goes_on(tmp_path: Path) -> None:
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
    )
    plugins = ["-p", "tests.support.timeouts", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *OPTIONS, "-c", "pytest.ini", str(suite)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = result.stdout + result.stderr
    # The test whose clean-up hangs counts twice: as failed, then as the end of its process.
    assert "6 failed, 1 passed" in output, output
    for name in ("a_coroutine", "a_subprocess", "a_blocked_loop"):
        assert f"test_{name} - Failed: Timeout (>1.0s)" in output, name
    for name in ("a_clean_up", "uvloop"):
        assert f"crashed while running 'test_suite.py::test_{name}'" in output, name
        assert f"in test_{name}\n" in output, name
    assert "in wait_for_nothing\n" in output
