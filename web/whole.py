"""Whole lists over HTTP, written as they come: CSV for spreadsheets, a JSON object a line for programs."""

import asyncio
import zlib
from collections.abc import Mapping

import structlog
from aiohttp import hdrs, web

from eventstore.errors import TooManyListsError
from eventstore.limits import Limits
from eventstore.postgres.failures import describe
from eventstore.query.whole_lists import LineEnds, ListFormat, WholeList, WholeLists
from web.accepting import quality_of
from web.compression import GZIP, LEVEL, accepts_gzip
from web.cross_origin import add_vary
from web.errors import BadParameterError, NotAcceptableError

logger = structlog.get_logger()

JSON, CSV, NDJSON = "application/json", "text/csv", "application/x-ndjson"

# What a list can be had as; the first where nothing is preferred.
LIST_MEDIA = (JSON, CSV, NDJSON)

# What can go wrong with whole lists.
LIST_ERRORS = (TooManyListsError,)

FORMATS: Mapping[str, ListFormat] = {CSV: "csv", NDJSON: "ndjson"}

CONTENT_TYPES = {CSV: "text/csv; charset=utf-8; header=present", NDJSON: NDJSON}

# What there is of a page only.
OF_PAGES = ("limit", "cursor")


def chosen_media(request: web.BaseRequest, offered: tuple[str, ...]) -> str:
    """Which media type a request likes best of those that are offered (RFC 9110, 12.5.1). Raises NotAcceptableError."""
    given = request.headers.getall(hdrs.ACCEPT, ())
    if not given:
        return offered[0]
    named = quality_of(",".join(given))
    liked = {media: _quality(media, named) for media in offered}
    best = max(offered, key=lambda media: liked[media])
    if not liked[best]:
        raise NotAcceptableError(available=", ".join(offered))
    return best


def _quality(media: str, named: Mapping[str, float]) -> float:
    for name in (media, f"{media.partition('/')[0]}/*", "*/*"):
        if name in named:
            return named[name]
    return 0.0


def check_no_page(request: web.BaseRequest, media: str) -> None:
    """See that nobody asks for a page of a whole list. Raises BadParameterError."""
    for name in OF_PAGES:
        if name in request.query:
            problem = f"is for pages; {media} is the whole list"
            raise BadParameterError(parameter=name, problem=problem)


class ListWriter:
    """Writes one whole list, each chunk once its reader has taken the one before."""

    def __init__(self, request: web.Request, media: str, headers: Mapping[str, str]) -> None:
        self._request = request
        self._media = media
        self._seconds = 0.0
        self._ends = LineEnds() if media == CSV else None
        self._compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
        self._compressed = accepts_gzip(request)
        self.response = web.StreamResponse(
            headers={**headers, hdrs.CONTENT_TYPE: CONTENT_TYPES[media]}
        )
        add_vary(self.response, f"{hdrs.ACCEPT}, {hdrs.ACCEPT_ENCODING}")
        if self._compressed:
            self.response.headers[hdrs.CONTENT_ENCODING] = "gzip"
        if media == CSV:
            name = request.path.rstrip("/").rpartition("/")[2]
            self.response.headers[hdrs.CONTENT_DISPOSITION] = f'attachment; filename="{name}.csv"'

    async def write(
        self, lists: WholeLists, whole: WholeList, limits: Limits
    ) -> web.StreamResponse:
        """Write it. A list that cannot be written whole breaks off without its end, so that none looks whole."""
        self._seconds = limits.write_seconds
        if self._request.method == hdrs.METH_HEAD:
            await self.response.prepare(self._request)
            return self.response
        try:
            await lists.copy(whole, FORMATS[self._media], self._take)
            if not self.response.prepared:
                await self.response.prepare(self._request)
            if self._compressed:
                await self._send(self._compressor.flush())
            await self.response.write_eof()
        except Exception as error:
            # The head is on its way only with the first rows: until then there can be a problem in its place.
            if not self.response.prepared:
                raise
            logger.warning(
                "list_broken_off",
                message="A whole list broke off; whoever asked sees that it is not complete.",
                error=describe(error),
            )
            if self._request.transport is not None:
                self._request.transport.abort()
        return self.response

    async def _take(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        if self._ends is not None:
            data = self._ends.feed(data)
        await self._send(self._compressor.compress(data) if self._compressed else data)

    async def _send(self, data: bytes) -> None:
        if data:
            async with asyncio.timeout(self._seconds):
                await self.response.write(data)
