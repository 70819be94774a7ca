"""The command `loopledger serve`: as `python server.py`."""

from server import add_arguments, run

__all__ = ["HELP", "add_arguments", "run"]

HELP = "run the server, with its own Postgres unless DATABASE_URL is set"
