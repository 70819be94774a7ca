"""What something takes: time, processor time and memory, of a program and of its Postgres apart."""

import contextlib
import resource
import threading
import time
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

T = TypeVar("T")

# Seconds between looks at the memory; more if looking would take more than this share of a CPU.
LOOK_SECONDS = 0.1
LOOK_SHARE = 0.05


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run took. Memory is at its peak, in bytes; that which processes share counts once.

    `cpu_seconds` are of all who took part, Postgres included; `other_cpus` is what other programs took meanwhile.
    """

    seconds: float
    cpu_seconds: float
    program_bytes: int | None
    postgres_bytes: int
    other_cpus: float


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    return [process, *process.children(recursive=True)]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """The CPU time that processes have taken; that of children that have ended counts with their parent."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def busy_seconds() -> float:
    """The CPU time that the whole machine has spent, whoever on."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def own_seconds() -> float:
    """The CPU time of this program and of its children that have ended, such as wrk."""
    return sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


async def measure(
    work: Coroutine[Any, Any, T], postgres: psutil.Process, program: psutil.Process | None
) -> tuple[T, Usage]:
    """Do `work`, which `program` and `postgres` take part in; without a program, this one does.

    Postgres may be a child of the program: it is counted apart all the same.
    """
    watch = _Watch(postgres, program)
    cpu, busy, own = watch.cpu_seconds(), busy_seconds(), own_seconds()
    began = time.perf_counter()
    with watch:
        done = await work
    seconds = time.perf_counter() - began
    cpu = watch.cpu_seconds() - cpu
    own = own_seconds() - own
    others = busy_seconds() - busy - own - cpu
    return done, Usage(
        seconds=seconds,
        cpu_seconds=cpu if program is not None else cpu + own,
        program_bytes=None if program is None else watch.program_bytes,
        postgres_bytes=watch.postgres_bytes,
        other_cpus=max(0.0, others / seconds),
    )


class _Watch:
    """Looks at the memory of processes, in a thread, and keeps the peaks."""

    def __init__(self, postgres: psutil.Process, program: psutil.Process | None) -> None:
        self.program_bytes = 0
        self.postgres_bytes = 0
        self._postgres = postgres
        self._program = program
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def cpu_seconds(self) -> float:
        """What the processes have taken until now."""
        return cpu_seconds({*self._families()[0], *self._families()[1]})

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            began = time.thread_time()
            with contextlib.suppress(psutil.Error):
                program, postgres = self._families()
                self.program_bytes = max(self.program_bytes, memory_of(program))
                self.postgres_bytes = max(self.postgres_bytes, memory_of(postgres))
            pause = max(LOOK_SECONDS, (time.thread_time() - began) / LOOK_SHARE)

    def _families(self) -> tuple[set[psutil.Process], set[psutil.Process]]:
        postgres = set(family(self._postgres))
        program = set() if self._program is None else {*family(self._program)}
        return program - postgres, postgres


def memory_of(family: Iterable[psutil.Process]) -> int:
    """The memory of processes; what several share is counted once, where the system says how much that is."""
    total = 0
    for process in family:
        with contextlib.suppress(psutil.Error):
            total += _proportional(process)
    return total


def _proportional(process: psutil.Process) -> int:
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return int(process.memory_info().rss)
    return (
        sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    )
