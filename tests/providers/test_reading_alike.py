"""A body as expected is read at once, any other leniently: which of the two it was makes no difference."""

from collections.abc import Mapping
from typing import Any
from unittest import mock
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from eventstore.errors import LoopledgerError
from eventstore.log.events import Event
from providers import loopz
from providers.parsing import Reader
from tests.support import NOON, encoded

Json = dict[str, Any]

PROVIDER = loopz.provider(loopz.Settings())

MOMENTS = ["2026-01-01T09:00:00-03:00", "2026-01-01T00:00:00.1234567Z", "2026-01-01t00:00:00z"]
ODD_MOMENTS = ["2026-01-01", "2026-01-01 00:00", "yesterday", 1767225600, 1767225600.5, None, True]
TIMES = st.datetimes().map(lambda moment: f"{moment.isoformat()}Z") | st.sampled_from(
    [*MOMENTS, *ODD_MOMENTS]
)
TEXTS = st.sampled_from(["ACTIVE", "redemption", "Voided", "", "é", "\0", "\ud800", "7", None])
CENTS = st.sampled_from([0, -1, 2500, 2500.0, 2.5, "2500", "25.00", 2**63 - 1, 2**63, True, None])
MONEY = CENTS | st.fixed_dictionaries({"amount": CENTS}, optional={"currencyCode": TEXTS})
FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from(["x-1", "x-1", 3, 3.0, "", None]),
    **dict.fromkeys(("created_on", "createdAt", "updated_on", "updatedOn", "deleted_at"), TIMES),
    **dict.fromkeys(("balance", "amount", "tip"), MONEY),
    **dict.fromkeys(("type", "status", "code", "currency", "name", "locationId"), TEXTS),
    "gift_card_id": TEXTS,
    "externalId": TEXTS,
}
# What stands for a text, and what does not: either is no longer as expected.
ODD_FIELDS = st.sampled_from(["type", "status", "currencyCode", "location_id", "external_id"])
ODD_VALUES = st.sampled_from([7, 2.5, True, [], {}])
PLAIN = st.fixed_dictionaries({}, optional=FIELDS)
BODIES = st.builds(lambda plain, odd: plain | odd, PLAIN, st.dictionaries(ODD_FIELDS, ODD_VALUES))
WRAPPERS = st.sampled_from(["gift_card", "giftCard", "transaction", "location"])
WRAPPED = st.builds(lambda name, body, beside: beside | {name: body}, WRAPPERS, BODIES, PLAIN)


def outcome(topic: str, body: bytes) -> object:
    """What becomes of a body: a fact with its types, or an error with its text."""
    event = Event(
        1, UUID(int=1), loopz.NAME, topic, "m-1", "p-1", "loopz/m-1/~/x-1", NOON, NOON, body
    )
    try:
        return repr(PROVIDER.decode(event))
    except (LoopledgerError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


@given(st.sampled_from(sorted(loopz.TOPICS)), BODIES | WRAPPED)
@example("gift-card.updated", {"id": "x-1", "balance": {"amount": 1, "currencyCode": "USD"}})
@example("gift-card.deleted", {"gift_card": {"id": "x-1", "gift_card": {"id": 2, "code": 7}}})
@example("transaction.created", {"id": "x-1", "type": "REDEMPT\u0131ON", "amount": 2500})
@example("location.updated", {"location": {"id": 3, "name": None}, "name": 7})
def test_every_body_is_read_leniently_as_it_is_read_at_once(topic: str, body: Json) -> None:
    found = outcome(topic, encoded(body))
    with mock.patch.object(Reader, "read", return_value=None):
        assert outcome(topic, encoded(body)) == found
