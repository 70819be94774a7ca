"""What can be wrong with a request, besides the errors of the engine and the providers."""

from eventstore.errors import LoopledgerError


class BadParameterError(LoopledgerError):
    """The parameter {parameter} {problem}."""


class MalformedHeaderError(LoopledgerError):
    """The header {header} cannot be read."""


class TooLargeError(LoopledgerError):
    """The body is larger than {limit} bytes, the most that is accepted here."""


class BadBodyError(LoopledgerError):
    """The body is not what is asked for here: {problem}."""


class EncodedError(LoopledgerError):
    """Content-Encoding {encoding} is not accepted: send the body as it is."""


class TooSlowError(LoopledgerError):
    """The body did not arrive within {seconds:g} s."""


class HeadTooSlowError(LoopledgerError):
    """The head of the request was not complete within {seconds:g} s."""


class HeadTooLargeError(LoopledgerError):
    """The head of the request is too large: {limit} bytes at most, in 128 headers of 8,190 bytes at most."""


class MalformedError(LoopledgerError):
    """This is not valid HTTP, or a form of it that the server does not support: {problem}."""


class CrowdedError(LoopledgerError):
    """This request arrived slowly, and the server needs its room for others; try again later."""


class TooManyReadsError(LoopledgerError):
    """{limit} requests to the API are waiting for their turn already; try again later."""


class TooManyMissesError(LoopledgerError):
    """Too many searches with this key found nothing; try again in {seconds} s."""


class TooManyFromAddressError(LoopledgerError):
    """All {limit} connections that one address may have are in use; try again later."""


class TooManyConnectionsError(LoopledgerError):
    """All {limit} connections are in use; try again later."""


class CutShortError(LoopledgerError):
    """The body ended before it was complete: {problem}."""


class ExpectationError(LoopledgerError):
    """Expect: {expectation} cannot be met; only 100-continue can."""


class ForeignError(LoopledgerError):
    """Without verification, deliveries are accepted from programs on this machine only, not {what}."""


class TooManyStreamsError(LoopledgerError):
    """All {limit} live streams are in use; try again later."""


class TooManyKeyStreamsError(LoopledgerError):
    """All {limit} live streams that one key may have are in use; end one, or try again later."""


class MissingKeyError(LoopledgerError):
    """This needs a key, sent as `Authorization: Bearer llk_...`: `loopledger keys create` makes one."""


class InvalidKeyError(LoopledgerError):
    """The key {problem}."""


class InsufficientScopeError(LoopledgerError):
    """This needs a key with the scope {scope}, and the one that was sent does not have it."""


class BoundKeyError(InsufficientScopeError):
    """This concerns the whole store, and the key that was sent is for some merchants only."""


class KeyTooBusyError(LoopledgerError):
    """Too many requests with this key; try again in {seconds} s."""


class NotAcceptableError(LoopledgerError):
    """Nothing that Accept names can be had here; there is {available}."""


class NotReportedError(LoopledgerError):
    """The processes of this server did not report their metrics in time."""


class NotRetriableError(LoopledgerError):
    """Rejection {id} cannot be tried again: {problem}."""


class TooManyError(LoopledgerError):
    """Too many requests from this address; try again in {seconds} s."""
