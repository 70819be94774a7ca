"""Reading Server-Sent Events, as the HTML standard has them (section 9.2)."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import NamedTuple


class Message(NamedTuple):
    """What came: `id` is the last id so far. A message without `data` says only how far the stream is."""

    id: str
    event: str
    data: str


async def messages(lines: AsyncIterable[bytes], last_id: str = "") -> AsyncIterator[Message]:
    """The messages of a stream, given its lines; one that is cut off is none, and its id does not count."""
    id_, event, data = last_id, "", list[str]()
    async for raw in lines:
        if not raw.endswith(b"\n"):
            return
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data or id_ != last_id:
                yield Message(id_, event or "message", "\n".join(data))
            last_id, event, data = id_, "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "id":
                id_ = value
            case "event":
                event = value
            case "data":
                data.append(value)
