"""A process with an embedded Postgres, for the tests to kill: `embedded_server.py DATA_DIR [USER]`.

Says one line of JSON once it runs, or once it has failed; stops when its input ends. USER is taken
on after the imports and after the binaries are found, because the virtual environment may lie where
that user cannot enter.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401 - asyncio would import it too late
import json
import os
import pwd
import sys
from pathlib import Path

import structlog

from eventstore.errors import PostgresError
from eventstore.postgres import binaries
from eventstore.postgres.embedded import EmbeddedPostgres


async def serve(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    try:
        await postgres.start()
    except PostgresError as error:
        say(error=str(error))
        return
    say(dsn=postgres.dsn, postmaster=postgres.postmaster_pid)
    await asyncio.to_thread(sys.stdin.read)
    await postgres.stop()


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts | {"uid": os.geteuid()}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if len(sys.argv) > 2:
        account = pwd.getpwnam(sys.argv[2])
        reachable = binaries.binaries_for(account)
        binaries.wheel_binaries = lambda: reachable
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    asyncio.run(serve(Path(sys.argv[1])))
