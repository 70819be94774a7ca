"""A builder process; what it does is in runtime/building.py."""

import sys

# structlog would load rich, to print errors in colour: that takes as long as all else, and a builder logs nothing.
sys.modules["rich"] = None  # type: ignore[assignment]

from runtime.building import start  # noqa: E402 - see above

if __name__ == "__main__":
    start()
