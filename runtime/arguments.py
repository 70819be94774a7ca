"""Command-line arguments: each error says what the argument must be, and what was given instead."""

import argparse
import math
from collections.abc import Callable
from datetime import UTC, datetime
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


def future_time(text: str) -> datetime:
    """Read a time to come, or the beginning of a day in UTC, for `type=`."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.min  # noqa: DTZ901 - refused below
    if len(text) == len("2027-01-31"):
        time = time.replace(tzinfo=UTC)
    if time.tzinfo is None or time <= datetime.now(UTC):
        message = f"must be a time to come, like 2027-01-31 or 2027-01-31T12:00:00Z, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return time


def filter_pair(text: str) -> tuple[str, str]:
    """Read a filter, for `type=`: a name and a value."""
    name, equals, value = text.partition("=")
    if name and equals:
        return name, value
    message = f"must be a name and a value, like topic=gift-card.updated, not {text!r}"
    raise argparse.ArgumentTypeError(message)


def readable_file(text: str) -> Path:
    """Read the path of a file that can be read, for `type=`."""
    path = Path(text)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        message = f"must be a file that can be read, not {text!r}: {error.strerror}"
        raise argparse.ArgumentTypeError(message) from None


class SplitOption(argparse.Action):
    """The option `--insecure` of earlier versions: an error that names the two that took its place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        _values: object,
        _option: str | None = None,
    ) -> None:
        """Raise SystemExit."""
        parser.error(
            "--insecure was split in two: --accept-unverified accepts deliveries that nothing verifies, "
            "--answer-without-keys lets whoever reaches the server read"
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # in no range
