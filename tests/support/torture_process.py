"""`python -m torture` as a process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import ROOT

# How long a run may take, on a slow machine.
SECONDS = 240


@contextmanager
def torturing(*options: str) -> Iterator["subprocess.Popen[str]"]:
    """Run torture with these options; what it finds is printed as JSON."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torture", *options, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            # It ends what it started.
            process.terminate()
            process.communicate()
