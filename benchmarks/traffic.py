"""The deliveries that are sent: simulated ones, each with its signature."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from simulation.deliveries import Delivery, Rates, deliveries

SIGNATURE_HEADER = "X-Signature-256"
SIGNATURE_PREFIX = "sha256="
TOPIC_HEADER = "X-LOOPZ-WEBHOOK-TOPIC"
UPDATED = "gift-card.updated"

# More than any run asks for: the simulation makes them one by one.
ENDLESS = 2**62


class Signer:
    """Signs bodies with a secret of this run."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(32)

    def headers(self, delivery: Delivery) -> dict[str, str]:
        """The headers of a delivery, its signature included."""
        signature = hmac.new(self.secret.encode(), delivery.body, hashlib.sha256).hexdigest()
        return delivery.headers | {SIGNATURE_HEADER: SIGNATURE_PREFIX + signature}


def gift_card_updates(seed: int, count: int) -> Iterator[Delivery]:
    """Updates of gift cards as a busy Loopz would send them; another seed gives other cards."""
    stream = deliveries(seed, ENDLESS, Rates(fitbank=0))
    return islice((each for each in stream if each.headers[TOPIC_HEADER] == UPDATED), count)


def write_requests(file: Path, made: Iterable[Delivery], signer: Signer) -> None:
    """Write whole HTTP requests, each after a line with its length: what the script of wrk reads."""
    with file.open("wb") as out:
        for delivery in made:
            headers = {
                "Host": "127.0.0.1",
                "Content-Length": str(len(delivery.body)),
                **signer.headers(delivery),
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            request = f"POST {delivery.path} HTTP/1.1\r\n{lines}\r\n".encode() + delivery.body
            out.write(b"%d\n%b" % (len(request), request))
