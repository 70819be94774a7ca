"""What every handler works with."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import msgspec
from aiohttp import web

from eventstore.fold.quarantine import Quarantine
from eventstore.fold.registry import Registry
from eventstore.keys import Keys
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.reader import Reader
from eventstore.log.relay_client import RelayingAppender
from eventstore.query.events import EventLists
from eventstore.query.history import History
from eventstore.query.listing import ListReader
from eventstore.query.readiness import Readiness
from eventstore.query.states import States
from eventstore.query.whole_lists import WholeLists
from eventstore.rejections import Rejections
from providers.provider import Provider
from verification.verifier import Verifier
from web.auth import Authenticator
from web.formats import Negotiated
from web.live import LiveStreams
from web.misses import Misses


class Endpoint(NamedTuple):
    """Where the deliveries of one provider come in."""

    provider: Provider
    verifier: Verifier


class MetricsReader(Protocol):
    """Where the metrics of this server are read."""

    async def read(self) -> Negotiated:
        """All of them. Raises NotReportedError."""

    def close(self) -> None:
        """Stop reading."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a running Loopledger. `open_metrics`: everybody may read its metrics.

    `cors_origins`: pages of these sites may read the API.
    `states` and `histories` are by the name of the projection, `endpoints` by that of the provider.
    """

    open_metrics: bool
    cors_origins: tuple[str, ...] = ()
    limits: Limits
    keys: Keys
    authenticator: Authenticator
    appender: Appender | RelayingAppender
    reader: Reader
    registry: Registry
    rejections: Rejections
    endpoints: Mapping[str, Endpoint]
    states: Mapping[str, States]
    histories: Mapping[str, History]
    quarantine: Quarantine
    lists: ListReader
    event_lists: EventLists
    whole_lists: WholeLists
    misses: Misses
    readiness: Readiness
    live: LiveStreams
    metrics: MetricsReader


CONTEXT = web.AppKey("context", Context)
