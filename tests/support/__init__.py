"""What tests say often."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import yarl
from asyncpg import Record
from multidict import CIMultiDict

from eventstore.log.events import Event, NewEvent
from providers import load_providers
from tests.support import described
from tests.support.keys import LOCAL_KEYS

ROOT = Path(__file__).parent.parent.parent

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Answer:
    """An HTTP answer, read."""

    def __init__(self, status: int, headers: "CIMultiDict[str]", body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever it is, the test knows
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """A provider and a reader at once.

    It asks with `key`; if none is given, with the local one of a server that the suite's own `start` has started; "" is
    none.
    """

    def __init__(self, session: aiohttp.ClientSession, key: str | None = None) -> None:
        self.session = session
        self.base_url = str(session._base_url)
        self.key = LOCAL_KEYS.get(self.base_url.rstrip("/")) if key is None else key

    async def request(self, method: str, path: str, **options: Any) -> Answer:  # noqa: ANN401 - aiohttp's own
        """Send a request; the path goes out as it is written."""
        url = yarl.URL(self.base_url.rstrip("/") + path, encoded=True)
        if self.key and not path.startswith("/webhooks"):
            headers = CIMultiDict(options.get("headers") or {})
            headers.setdefault("Authorization", f"Bearer {self.key}")
            options["headers"] = headers
        async with self.session.request(method, url, **options) as response:
            body = await response.read()
            described.check(method, path, response.status, response.content_type, body)
            return Answer(response.status, CIMultiDict(response.headers), body)

    async def get(self, path: str) -> Answer:
        """GET."""
        return await self.request("GET", path)

    async def loopz(
        self,
        topic: str | None,
        body: object,
        *,
        merchant: str | None = "m-1",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """A delivery of Loopz. `body` is JSON, or bytes as they are."""
        named = loopz_headers(topic, merchant) | (headers or {})
        data = io.BytesIO(encoded(body))
        return await self.request("POST", "/webhooks/loopz", data=data, headers=named)

    async def fitbank(self, body: object) -> Answer:
        """A delivery of FitBank."""
        return await self.request("POST", "/webhooks/fitbank", data=encoded(body))


def loopz_headers(topic: str | None, merchant: str | None = "m-1") -> dict[str, str]:
    """The headers of a Loopz delivery."""
    named = {
        "X-LOOPZ-WEBHOOK-TOPIC": topic,
        "X-LOOPZ-MERCHANT-ID": merchant,
        "X-LOOPZ-PROGRAM-ID": "p-1",
        "X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID": "s-1",
    }
    return {name: value for name, value in named.items() if value is not None}


def encoded(body: object) -> bytes:
    """JSON, unless it is bytes already."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def new_event(
    topic: str = "location.updated",
    body: object = None,
    *,
    provider: str = "loopz",
    merchant: str = "m-1",
) -> NewEvent:
    """A delivery that its provider has recognised."""
    raw = encoded({"id": "l-1"} if body is None else body)
    recognised = load_providers({})[provider].recognise(
        CIMultiDict(loopz_headers(topic, merchant)), raw
    )
    return NewEvent(
        event_id=uuid4(),
        provider=provider,
        topic=recognised.topic,
        merchant_id=recognised.merchant_id,
        program_id=recognised.program_id,
        stream=recognised.stream,
        received_at=datetime.now(UTC),
        headers=b"Host: localhost\r\n",
        body=raw,
    )


def on_record(event: NewEvent, position: int, received_at: datetime = NOON) -> Event:
    """The same delivery as it stands in the log."""
    return Event(
        position,
        event.event_id,
        event.provider,
        event.topic,
        event.merchant_id,
        event.program_id,
        event.stream,
        received_at,
        received_at,
        event.body,
    )


def values(rows: list[Record]) -> list[tuple[Any, ...]]:
    """Rows as plain tuples."""
    return [tuple(row.values()) for row in rows]
