"""wrk, the load generator: as many connections as asked for, each sending its next request once it has an answer.

A closed loop: a server that stalls is sent less meanwhile, so the latencies are those of a server that is kept busy,
not those at a stated rate (benchmarks.lag measures these).
"""

import asyncio
import math
import shutil
from pathlib import Path

import msgspec

from benchmarks.processes import fail

# How long an answer may take before wrk counts it as lost, and how long wrk may take over its time.
ANSWER_SECONDS = 30
SPARE_SECONDS = 60.0

# Each thread reads the requests into memory once, before the clock runs, and sends them in turn.
SCRIPT = """
local requests, last = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  for length in function() return file:read("*l") end do
    requests[#requests + 1] = file:read(tonumber(length))
  end
  file:close()
end

function request()
  last = last % #requests + 1
  return requests[last]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"answers":%d,"refused":%d,"broken":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f}\\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


class Load(msgspec.Struct, frozen=True):
    """What wrk saw. `refused` are answers other than 200, `broken` are connections and requests without an answer."""

    answers: int
    refused: int
    broken: int
    seconds: float
    p50_ms: float
    p99_ms: float


def installed() -> bool:
    """Whether wrk is there."""
    return shutil.which("wrk") is not None


def whole_seconds(seconds: float) -> int:
    """How long wrk will run: it counts in whole seconds."""
    return max(1, math.ceil(seconds))


async def load(url: str, requests: Path, *, connections: int, seconds: float) -> Load:
    """Send the requests of a file for some seconds. Raises BenchmarkError if any was not answered with 200."""
    script = requests.with_name("script.lua")
    script.write_text(SCRIPT)
    process = await asyncio.create_subprocess_exec(
        "wrk",
        *("--threads", "1", "--connections", str(connections)),
        *("--duration", f"{whole_seconds(seconds)}s", "--timeout", f"{ANSWER_SECONDS}s"),
        *("--script", script, url, "--", requests),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(whole_seconds(seconds) + SPARE_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        found = msgspec.json.decode(output.rsplit(b"\n", 2)[-2], type=Load)
    except (msgspec.DecodeError, IndexError):
        fail(f"wrk did not report: {output.decode(errors='replace')}")
    if found.refused or found.broken or not found.answers:
        fail(f"of the requests to {url} not all were answered with 200: {found}")
    return found
