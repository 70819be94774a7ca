"""Loading SQL: a .sql file holds statements by name, `-- name --` and a sentence over each.

Each folder has one such file, named after it, which nobody else reads; `QUERIES` in its `queries` is what it holds.
"""

import re
from pathlib import Path

_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def load_queries(file: Path) -> dict[str, str]:
    """Split a .sql file into its named statements; the sentence over each stays with it, as a comment."""
    _, *parts = _HEADING.split(file.read_text("utf-8"))
    return {
        name: statement.strip() for name, statement in zip(parts[::2], parts[1::2], strict=True)
    }


QUERIES = load_queries(Path(__file__).with_name("postgres.sql"))
