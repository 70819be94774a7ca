"""What the embedded server is made and run with, whatever its files lie in."""

from typing import Final

import psutil

from eventstore.postgres.roles import ADMIN

PORT: Final = 5432

# What Postgres writes a new database's write-ahead log in, and the least of it that it may be told to keep.
SEGMENT_MIB: Final = 16
LEAST_WAL_MIB: Final = 80

LEAST_BUFFERS_MIB: Final = 128
MOST_BUFFERS_MIB: Final = 512

# Given on the command line, so that no edit of postgresql.conf can weaken them unseen.
SERVER_SETTINGS: Final = {
    "listen_addresses": "",
    "port": str(PORT),
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "jit": "off",
    # We start it again when it ends. By itself it may wait for ever: Postgres 18.4 does not notice when its recovery
    # from a crash loses its process.
    "restart_after_crash": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The text of an error quotes the value that caused it: the client gets it, the log must not.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

# Collation and case come from Postgres itself: an upgrade of the system cannot corrupt an index.
INITDB_OPTIONS: Final = (
    f"--username={ADMIN} --auth-local=reject --auth-host=reject --data-checksums "
    "--encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8"
).split()


def shared_buffers_mib() -> int:
    """Memory for pages: a sixteenth of the machine's, within what a stop can write out. It is taken as it is needed."""
    share = psutil.virtual_memory().total // 16 // 2**20
    return max(LEAST_BUFFERS_MIB, min(share, MOST_BUFFERS_MIB))
