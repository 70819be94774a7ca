"""Who makes a request, and what they may see and do."""

from typing import Literal, TypeAlias

import msgspec

from eventstore.query.visibility import Visibility

# What a caller has to be allowed to do: deliver webhooks, read metrics, read states and the log, get the exact bytes of
# requests, or make changes. "health" is open to everybody.
Scope: TypeAlias = Literal["deliver", "health", "metrics", "read", "raw", "operate"]


class Access(msgspec.Struct, frozen=True):
    """What a caller may do: `scopes`; and see: `visibility`. `name` says who it is, for the server's own log."""

    name: str
    scopes: frozenset[str]
    visibility: Visibility


# This machine, or everybody where the settings open the API.
WITHOUT_KEY = Access("without a key", frozenset({"read", "raw", "operate"}), Visibility())
