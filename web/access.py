"""Who makes a request, and what they may see and do."""

from typing import Literal, TypeAlias

import msgspec

from eventstore.keys import Key, KeyScope
from eventstore.query.visibility import Visibility

# What a caller has to be allowed to do: deliver webhooks, or what a key is for. "health" is open to everybody.
Scope: TypeAlias = Literal["deliver", "health"] | KeyScope


class Access(msgspec.Struct, frozen=True):
    """What a caller may do: `scopes`; and see: `visibility`. `name` says who it is, for the server's own log.

    `key_id` is the id of the key that was sent, 0 for the local one, null for none.
    """

    name: str
    scopes: frozenset[str]
    visibility: Visibility
    key_id: int | None = None


# Who needs no key: whoever may read may read the metrics, which tell less.
WITHOUT_KEY = Access("without a key", frozenset({"read", "metrics"}), Visibility())

# The key that a server makes for the commands of its machine: whoever has it may make others.
LOCAL = Access(
    "the local key",
    frozenset({"read", "find", "operate", "audit", "metrics", "admin"}),
    Visibility(),
    0,
)


def access_of(key: Key) -> Access:
    """What whoever sends this key may do and see."""
    scopes = frozenset(key.scopes)
    return Access(key.name, scopes, Visibility(key.merchants, "reveal" in scopes), key.id)
