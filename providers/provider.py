"""What a provider is: pure code that recognises a delivery and decodes an event into a fact."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from eventstore.errors import LoopledgerError
from eventstore.log.events import Event
from eventstore.log.streams import LONGEST_NAME
from eventstore.query.money import MinorUnits
from providers.facts import Fact

# What a header that was not sent has.
MISSING = (None,)


class UnparsableError(LoopledgerError):
    """The body is not a JSON object: {problem} (byte {offset})."""


class UnidentifiedError(LoopledgerError):
    """The delivery does not say what it is: {what} {problem}."""


class UndecodableError(LoopledgerError):
    """{field} {problem}."""


class Recognised(msgspec.Struct, frozen=True):
    """Where a delivery belongs. `subscription_id` says by which subscription it was sent, if it does."""

    topic: str
    merchant_id: str
    program_id: str | None
    stream: str
    subscription_id: str | None = None


class Example(msgspec.Struct, frozen=True):
    """A delivery as the provider's documentation shows it, less what its verification adds: for `loopledger sign`."""

    headers: Mapping[str, str]
    body: bytes


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One sender of webhooks.

    `recognise(headers, body)` says where a delivery belongs; raises UnparsableError and UnidentifiedError. Header names
    are matched without case. `topics` are those it knows, each with the type of fact it carries; an event of any other
    topic goes on record, and no projection handles it. `decode(event)` reads an event of a known topic; raises
    UndecodableError. `stream_of(event, fact)` names the stream of the thing that a fact is about, from tenant and id as
    `recognise` reads them; an event that cannot be read has no fact. `identity_headers` hold what the body does not say
    of itself. `kept_headers` are others of its own that go on record. `decoding_settings`: the settings that `decode`
    depends on, as a value that JSON can hold; never a secret. `example` is a delivery that `recognise` accepts.
    `minor_units`: how many digits the minor units of its currencies have.
    """

    name: str
    topics: Mapping[str, type[Fact]]
    recognise: Callable[[Mapping[str, str], bytes], Recognised]
    decode: Callable[[Event], Fact]
    stream_of: Callable[[Event, Fact | None], str]
    example: Example
    identity_headers: tuple[str, ...] = ()
    kept_headers: tuple[str, ...] = ()
    decoding_settings: object = None
    minor_units: MinorUnits = MinorUnits()


def header_values(headers: Mapping[str, str], names: Iterable[str]) -> list[str | None]:
    """The value of each header, or None. Raises UnidentifiedError if one has several, since none of them is sure."""
    getall = getattr(headers, "getall", None)
    if getall is None:
        return [headers.get(name) for name in names]
    values: list[str | None] = []
    for name in names:
        found: Sequence[str] = getall(name, MISSING)
        if len(found) > 1 and len(set(found)) > 1:
            raise UnidentifiedError(what=f"the header {name}", problem="has several values")
        values.append(found[0])
    return values


def checked_name(value: str | None, what: str) -> str:
    """Check that the log can hold a topic or a tenant as text; gives it back. Raises UnidentifiedError."""
    if not value:
        raise UnidentifiedError(what=what, problem="is missing or unusable")
    if len(value) > LONGEST_NAME:
        raise UnidentifiedError(what=what, problem=f"has more than {LONGEST_NAME} characters")
    if not value.isprintable():
        # Control characters, and lone surrogates: header bytes that are not UTF-8 arrive as those.
        raise UnidentifiedError(what=what, problem="is not printable text")
    return value
