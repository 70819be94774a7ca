"""Responses as bytes, for connections that are not, or no longer, for aiohttp to answer."""

import time
from email.utils import formatdate

from aiohttp import web

from web.problems import problem_response
from web.request_ids import request_id_from
from web.responses import SERVER


class Serializer:
    """Writes responses with the lines that all of them have."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = b""

    def write(self, head: bytes, body: bytes, *, close: bool) -> bytes:
        """A response as bytes. `head` lacks the lines that all responses have."""
        return b"%b%bContent-Length: %d\r\n%b\r\n%b" % (
            head,
            self._common_lines(),
            len(body),
            b"Connection: close\r\n" if close else b"",
            body,
        )

    def problem(self, error: Exception) -> bytes:
        """The response to what went wrong, with which a connection ends."""
        return self.write(
            *head_and_body(problem_response(error, "", request_id_from({}))), close=True
        )

    def _common_lines(self) -> bytes:
        """The lines that all responses have (RFC 9110, 6.6.1 and 10.2.4); they change once a second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            date = formatdate(second, usegmt=True)
            self._lines = f"Date: {date}\r\nServer: {SERVER}\r\n".encode()
        return self._lines


def head_and_body(response: web.Response) -> tuple[bytes, bytes]:
    """The start of a response's head, and its body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
    head = f"HTTP/1.1 {response.status} {response.reason}\r\n{lines}".encode()
    return head, response.body if isinstance(response.body, bytes) else b""
