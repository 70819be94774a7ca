"""The names of streams: provider, tenant, kind and id of one thing, so that no other's events get into its stream."""

import hashlib
import re
from urllib.parse import quote

# A topic or a tenant longer than this names nothing; a part of a stream's name that would be longer is a hash.
LONGEST_NAME = 200

# A provider's name, and three parts with their slashes.
LONGEST_STREAM = 4 * LONGEST_NAME + 3

_STREAM = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.%~-]+){3}")

# What quoting leaves as it is.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")


def stream_name(provider: str, merchant_id: str | None, kind: str, id_: str | None) -> str:
    """Name the stream of one thing: plain ASCII, three slashes, one to one, at most 620 characters.

    "~" never comes out of a quoted part, so what begins with it is ours: "~none" where there is no id, "~sha256-..."
    for what is too long to be part of a key.
    """
    return f"{stream_prefix(provider, merchant_id, kind)}{stream_part(id_)}"


def stream_prefix(provider: str, merchant_id: str | None, kind: str) -> str:
    """What the names of all streams of one kind begin with."""
    return f"{provider}/{stream_part(merchant_id)}/{stream_part(kind)}/"


def stream_name_if_not(known: str, provider: str, merchant_id: str, kind: str, id_: str) -> str:
    """What `stream_name` gives, but `known` itself if it is that one: then mostly for a fraction of the price."""
    # A name of plain characters only was not quoted.
    if f"{provider}/{merchant_id}/{kind}/{id_}" == known and "%" not in known and "~" not in known:
        return known
    name = stream_name(provider, merchant_id, kind, id_)
    return known if name == known else name


def is_stream_name(text: str) -> bool:
    """Whether `stream_name` can have given this."""
    return len(text) <= LONGEST_STREAM and _STREAM.fullmatch(text) is not None


def stream_part(text: str | None) -> str:
    """Write one part of a stream's name."""
    if text is None:
        return "~none"
    if len(text) <= LONGEST_NAME:
        if _PLAIN.fullmatch(text):
            return text
        quoted = quote(text, safe="", errors="surrogatepass").replace("~", "%7E")
        if len(quoted) <= LONGEST_NAME:
            return quoted
    return f"~sha256-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
