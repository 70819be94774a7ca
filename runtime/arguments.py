"""Command-line arguments: each error says what the argument must be, and what was given instead."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Make a parser of whole numbers from `least` to `most`, for `type=`."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            message = f"must be a whole number {bounds}, not {text!r}"
            raise argparse.ArgumentTypeError(message)
        return number

    return parse


def positive_number(text: str) -> float:
    """Read a number greater than 0, for `type=`."""
    if 0 < (number := _number(text)) < math.inf:
        return number
    message = f"must be a number greater than 0, not {text!r}"
    raise argparse.ArgumentTypeError(message)


def share(text: str) -> float:
    """Read a share from 0 to 1, for `type=`."""
    if 0 <= (number := _number(text)) <= 1:
        return number
    message = f"must be a number from 0 to 1, not {text!r}"
    raise argparse.ArgumentTypeError(message)


def server_url(text: str) -> str:
    """Read the address of a server, for `type=`."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        message = f"must be the address of a server, like http://127.0.0.1:8080, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return text.rstrip("/")


def readable_file(text: str) -> Path:
    """Read the path of a file that can be read, for `type=`."""
    path = Path(text)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        message = f"must be a file that can be read, not {text!r}: {error.strerror}"
        raise argparse.ArgumentTypeError(message) from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # in no range
