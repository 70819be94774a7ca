"""The benchmark of questions runs and says what it measured; how fast anything was is not looked at."""

import json
import shutil
import subprocess
import sys

from benchmarks.ingest.wrk import MISSING
from tests.support import ROOT

SIZES = "--events 1000 --cards 100 --long 50 --ingest 100 --streams 3"
LOAD = "--seconds 0.3 --connections 2 --rounds 1 --json"
QUESTIONS = ["card", "page", "sorted page", "history", "deep history"]


def test_every_question_is_answered_beside_a_bare_handler() -> None:
    command = [sys.executable, "-m", "benchmarks.query", *SIZES.split(), *LOAD.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if shutil.which("wrk") is None:
        assert (done.returncode, done.stderr) == (2, f"benchmark: {MISSING}\n".encode())
        return
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    measured = {(run["question"], run["server"]) for run in report["runs"]}
    assert measured == {
        (question, server) for question in QUESTIONS for server in ("loopledger", "bare handler")
    }
    assert report["streams"]["streams"] == 3
    assert report["streams"]["events"] > 0
    assert report["csv"]["rows"] > 100
    assert {ratio["at"] for ratio in report["ratios"]} == {f"{name}, 2" for name in QUESTIONS}
    assert all(run["per_second"] > 0 and run["ingest_per_second"] > 0 for run in report["runs"])
