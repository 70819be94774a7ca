"""A worker that appends for others, in a process of its own: one to kill."""

import asyncio
import signal
import socket
import subprocess
import sys

from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.relay_server import RelayServer
from eventstore.postgres.database import Database
from tests.support import ROOT


def start_worker(rendezvous: socket.socket, dsn: str) -> "subprocess.Popen[bytes]":
    """Start one; it takes connections as soon as it can."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.appending_worker", str(rendezvous.fileno()), dsn],
        cwd=ROOT,
        pass_fds=[rendezvous.fileno()],
    )


async def _append_for_others(rendezvous: socket.socket, dsn: str) -> None:
    database = Database(dsn, pool_connections=1)
    appender = Appender(database.connect, Limits(), lambda _: None)
    server = RelayServer(appender, rendezvous, Limits())
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await appender.start()
    server.start()
    await stopped.wait()
    await server.stop()
    await appender.stop()


if __name__ == "__main__":
    asyncio.run(_append_for_others(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]))
