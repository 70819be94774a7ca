"""What a request accepts: headers that name things, and how much each is liked (RFC 9110, 12.4.2)."""

import re

# The most that is read of such a header: more is no wish.
MOST_NAMED = 50

QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)


def quality_of(header: str) -> dict[str, float]:
    """How much each thing that a header names is liked, from 0 to 1, in small letters; one without a weight fully.

    Parameters other than `q` are left out. What has a weight that is none is not liked at all.
    """
    found: dict[str, float] = {}
    for one in header.split(",", MOST_NAMED)[:MOST_NAMED]:
        name, *parameters = one.split(";")
        quality = 1.0
        for parameter in parameters:
            if parameter.strip().lower().startswith("q"):
                match = QUALITY.fullmatch(parameter)
                quality = float(match[1]) if match is not None else 0.0
        if name := name.strip().lower():
            found[name] = max(quality, found.get(name, 0.0))
    return found
