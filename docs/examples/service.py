"""A service that `loopledger listen` posts events to: `service.py PORT COUNT` prints so many of them, and ends."""

import http.server
import sys


class Service(http.server.BaseHTTPRequestHandler):
    """Takes events, perhaps one of them twice: their ids tell."""

    def do_POST(self) -> None:
        """Take one; only a 2xx says that it was taken."""
        self.rfile.read(int(self.headers["Content-Length"]))
        sys.stdout.write(
            f"{self.headers['Loopledger-Position']} {self.headers['Loopledger-Topic']}\n"
        )
        sys.stdout.flush()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing else."""


with http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Service) as server:
    for _ in range(int(sys.argv[2])):
        server.handle_request()
