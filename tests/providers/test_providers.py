"""Providers: bytes become facts, and whatever comes, only our own errors.

A case is a file `deliveries/<provider>/<case>.http`, a request head, a blank line and the exact body, with what is
expected of it beside it in `<case>.json`:

    {"refused": error}                          recognise() refuses it
    {"recognised": {...}, "fact": {...}}        it is read as this fact, or its topic is handled by nobody: null
    {"recognised": {...}, "undecodable": error} it goes on record, then into quarantine
"""

import json
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET
from multidict import CIMultiDict

from eventstore.errors import SettingsError
from providers import fitbank
from providers.amounts import MINOR_DIGITS
from providers.facts import Phase, TransactionFact
from providers.provider import Provider, UndecodableError, UnparsableError
from tests.support import ROOT, encoded, loopz_headers
from tests.support.reading import PURCHASE, RECEIVED_AT, configured, on_log, read

DELIVERIES = ROOT / "tests" / "deliveries"

CASES = sorted(DELIVERIES.glob("*/*.http"))

# Deeper than any parser goes.
DEEP = 100_000


def delivery(case: Path) -> tuple[CIMultiDict[str], bytes]:
    """The headers and the body of a case."""
    head, body = case.read_bytes().split(b"\n\n", 1)
    request, *lines = head.decode("utf-8", "surrogateescape").split("\n")
    assert request == f"POST /webhooks/{case.parent.name} HTTP/1.1"
    fields = (line.partition(":") for line in lines)
    return CIMultiDict((name, value.strip(" ")) for name, _, value in fields), body


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.stem}")
def test_a_delivery_is_read_as_expected(case: Path, providers: dict[str, Provider]) -> None:
    expected = json.loads(case.with_suffix(".json").read_bytes())
    assert read(providers[case.parent.name], *delivery(case)) == expected


def test_every_delivery_has_an_expectation_and_the_other_way_round() -> None:
    expectations = sorted(DELIVERIES.glob("*/*.json"))
    assert [case.with_suffix(".json") for case in CASES] == expectations


def test_every_topic_of_every_provider_has_a_delivery(providers: dict[str, Provider]) -> None:
    expected = [
        (case.parent.name, json.loads(case.with_suffix(".json").read_bytes())) for case in CASES
    ]
    read_as = {
        (name, outcome["recognised"]["topic"], *outcome["fact"])
        for name, outcome in expected
        if outcome.get("fact")
    }
    assert read_as == {
        (name, topic, fact.__name__)
        for name, provider in providers.items()
        for topic, fact in provider.topics.items()
    }


def loopz_fact(providers: Mapping[str, Provider], topic: str, body: object) -> Any:  # noqa: ANN401 - any fact
    """What Loopz says by this."""
    recognised = providers["loopz"].recognise(CIMultiDict(loopz_headers(topic)), encoded(body))
    return providers["loopz"].decode(on_log(providers["loopz"], recognised, encoded(body)))


def fitbank_fact(providers: Mapping[str, Provider], **fields: object) -> TransactionFact:
    """What FitBank says by these fields, and those that it must have."""
    given_fields = {"Method": PURCHASE, "BusinessUnitId": 66, "TransactionIdentifier": "TRA1TRA"}
    body = encoded(given_fields | fields)
    recognised = providers["fitbank"].recognise({}, body)
    fact = providers["fitbank"].decode(on_log(providers["fitbank"], recognised, body))
    assert isinstance(fact, TransactionFact)
    return fact


def test_a_fact_takes_from_its_event_whose_it_is_and_when_it_came(
    providers: dict[str, Provider],
) -> None:
    fact = loopz_fact(providers, "location.updated", {"id": "l-1"})
    assert (fact.provider, fact.merchant_id, fact.program_id) == ("loopz", "m-1", "p-1")
    assert fact.received_at == RECEIVED_AT


@pytest.mark.parametrize(
    ("statuses", "phase"),
    [
        ("CREATED PENDING", "created"),
        ("AUTHORIZED", "authorized"),
        ("APPROVED COMPLETE COMPLETED SETTLED SUCCESS SUCCEEDED completed", "settled"),
        ("CANCELED CANCELLED VOIDED", "canceled"),
        ("DECLINED ERROR FAILED", "failed"),
        ("REVIEWED 1", "unknown"),
    ],
)
def test_a_status_of_loopz_is_a_phase(
    providers: dict[str, Provider], statuses: str, phase: Phase
) -> None:
    for status in statuses.split():
        fact = loopz_fact(providers, "transaction.updated", {"id": "t-1", "status": status})
        assert (fact.status, fact.phase) == (status, phase)


@pytest.mark.parametrize(
    ("types", "kind"),
    [
        ("TOPUP TOP_UP topup", "topup"),
        ("REDEEM REDEEMED REDEMPTION", "redeem"),
        ("REFUND", "refund"),
    ],
)
def test_a_type_of_loopz_is_a_kind(providers: dict[str, Provider], types: str, kind: str) -> None:
    for type_ in types.split():
        fact = loopz_fact(providers, "transaction.updated", {"id": "t-1", "type": type_})
        assert (fact.method, fact.kind) == (type_, kind)


def test_personal_data_stays_in_the_log(providers: dict[str, Provider]) -> None:
    person = {"recipient_name": "Alex Example", "recipient_email": "alex@example.com"}
    card = loopz_fact(providers, "gift-card.updated", {"id": "g-1", **person})
    payer = {"UserName": "Alex Example", "UserAccountKey": "alex@example.com"}
    payment = fitbank_fact(providers, **payer, MerchantName="Alex Example")
    assert b"lex" not in msgspec.json.encode([card, payment])


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": "g-1", "code": ["HUSH"]}',
        b'{"id": "g-1", "balance": "HUSH"}',
        b'{"id": "g-1", "updated_on": "HUSH"}',
        b'{"id": ["HUSH"]}',
        b'{"code": "HUSH',
        b'{"code": HUSH}',
        b'"HUSH"',
    ],
)
def test_an_error_never_repeats_what_was_sent(providers: dict[str, Provider], body: bytes) -> None:
    found = read(providers["loopz"], CIMultiDict(loopz_headers("gift-card.updated")), body)
    assert {"refused", "undecodable"} & set(found)
    assert "HUSH" not in str(found)


@pytest.mark.parametrize(
    ("toml", "environ"),
    [
        ("[fitbank]\ncash_methods_swapped = true\n", {}),
        ("", {"LOOPLEDGER_FITBANK_CASH_METHODS_SWAPPED": "true"}),
    ],
    ids=["file", "environment"],
)
def test_a_setting_swaps_the_methods_of_deposit_and_withdrawal(
    tmp_path: Path, toml: str, environ: dict[str, str]
) -> None:
    swapped = configured(tmp_path, toml, environ)
    kinds = {method: fitbank_fact(swapped, Method=method).kind for method in fitbank.KINDS}
    assert kinds == {
        PURCHASE: "purchase",
        "UpdateDepositClosedLoopStatusMongo": "deposit",
        "UpdateWithdrawalClosedLoopStatusMongo": "withdrawal",
    }


def test_business_units_may_come_from_the_environment(tmp_path: Path) -> None:
    units = '{"66": {"currency": "BRL"}, "67": {"time_zone": "America/New_York"}}'
    found = configured(tmp_path, "", {"LOOPLEDGER_FITBANK_BUSINESS_UNITS": units})
    here = fitbank_fact(found, Date="2026-07-01T12:00:00")
    there = fitbank_fact(found, Date="2026-07-01T12:00:00", BusinessUnitId=67)
    nowhere = fitbank_fact(found, Date="2026-07-01T12:00:00", BusinessUnitId=68)
    assert (here.currency, there.currency, nowhere.currency) == ("BRL", None, UNSET)
    hours = [fact.updated_at.hour for fact in (here, there, nowhere) if fact.updated_at]
    assert hours == [12, 16, 12]


@pytest.mark.parametrize("zone", ["America/Atlantis", "", "../etc/passwd", "/etc/localtime"])
def test_a_time_zone_that_does_not_exist_stops_the_start(tmp_path: Path, zone: str) -> None:
    with pytest.raises(SettingsError, match=r"fitbank\.business_units\.66\.time_zone"):
        configured(tmp_path, f'[fitbank.business_units.66]\ntime_zone = "{zone}"\n')


@pytest.mark.parametrize(
    "toml",
    [
        "[fitbank]\ncash_method_swapped = true\n",
        "[fitbank.business_units.66]\ncurency = 'BRL'\n",
        "[loopz]\nanything = 1\n",
    ],
)
def test_a_setting_that_does_not_exist_stops_the_start(tmp_path: Path, toml: str) -> None:
    with pytest.raises(SettingsError):
        configured(tmp_path, toml)


def test_times_before_and_after_the_clocks_go_back_keep_their_order(tmp_path: Path) -> None:
    found = configured(tmp_path, '[fitbank.business_units.66]\ntime_zone = "America/New_York"\n')
    summer = fitbank_fact(found, Date="2026-11-01T01:50:00-04:00").updated_at
    winter = fitbank_fact(found, Date="2026-11-01T01:10:00-05:00").updated_at
    assert summer is not None
    assert winter is not None
    assert summer < winter
    assert {summer.tzinfo, winter.tzinfo} == {UTC}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b'{"id":' * DEEP,
        b'{"gift_card":' * DEEP,
        b'{"Method":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"id":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"unread":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"unread":"\\ud800","id":' + b"[" * DEEP + b"]" * DEEP + b"}",
    ],
    ids=lambda body: body[:24].decode(),
)
@pytest.mark.parametrize("name", ["loopz", "fitbank"])
def test_a_body_nested_too_deeply_is_refused(
    providers: dict[str, Provider], name: str, body: bytes
) -> None:
    headers = CIMultiDict(loopz_headers("gift-card.updated"))
    with pytest.raises(UnparsableError, match=r"nested too deeply \(byte 0\)"):
        providers[name].recognise(headers, body)


@pytest.mark.parametrize("start", [b'{"gift_card":', b'{"a":"\\ud800","gift_card":'])
def test_a_body_nested_almost_too_deeply_raises_nothing_unknown(
    providers: dict[str, Provider], start: bytes
) -> None:
    headers = CIMultiDict(loopz_headers("gift-card.updated"))
    for depth in range(300, 1100, 20):
        read(providers["loopz"], headers, start * depth + b"{}" + b"}" * depth)


@pytest.mark.parametrize(
    "date", ["2026-11-01T01:30:00", "2026-03-08T02:30:00", "2026-11-01 01:00:00.25"]
)
def test_a_local_time_that_comes_twice_or_never_is_no_time(tmp_path: Path, date: str) -> None:
    found = configured(tmp_path, '[fitbank.business_units.66]\ntime_zone = "America/New_York"\n')
    with pytest.raises(UndecodableError, match="comes twice or never"):
        fitbank_fact(found, Date=date)
    assert fitbank_fact(found, Date=f"{date}-05:00").updated_at is not None
    assert fitbank_fact(found, Date=date, BusinessUnitId=67).updated_at is not None


@pytest.mark.parametrize("date", ["2026-11-01T00:59:59", "2026-11-01T02:00:00"])
def test_a_local_time_beside_a_change_of_clocks_is_one(tmp_path: Path, date: str) -> None:
    found = configured(tmp_path, '[fitbank.business_units.66]\ntime_zone = "America/New_York"\n')
    assert fitbank_fact(found, Date=date).updated_at is not None


CENTS_OF_YEN = """
[loopz.minor_units]
XBT = 8

[loopz.merchants.m-1]
currency = "KWD"
minor_units = {JPY = 2}
"""


def test_a_merchant_may_have_minor_units_and_a_currency_of_its_own(tmp_path: Path) -> None:
    found = configured(tmp_path, CENTS_OF_YEN)

    def amount(merchant_id: str, money: object) -> tuple[str, object]:
        headers = CIMultiDict(loopz_headers("transaction.updated", merchant_id))
        body = encoded({"id": "t-1", "amount": money})
        fact = found["loopz"].decode(
            on_log(found["loopz"], found["loopz"].recognise(headers, body), body)
        )
        assert isinstance(fact, TransactionFact)
        return str(fact.amount), fact.currency

    yen, coins = ({"amount": 2500, "currencyCode": code} for code in ("JPY", "XBT"))
    assert [amount("m-1", money) for money in (yen, coins, 2500)] == [
        ("25.00", "JPY"),
        ("0.00002500", "XBT"),
        ("2.500", "KWD"),
    ]
    assert [amount("m-2", money) for money in (yen, coins, 2500)] == [
        ("2500", "JPY"),
        ("0.00002500", "XBT"),
        ("25.00", UNSET),
    ]


@pytest.mark.parametrize(
    "toml",
    [
        "[loopz.minor_units]\nJPY = -1\n",
        "[loopz.minor_units]\njpy = 2\n",
        "[loopz.merchants.m-1]\ncurrency = 'Yen'\n",
        "[fitbank.business_units.66]\ncurrency = 'brl'\n",
    ],
)
def test_a_currency_that_is_none_stops_the_start(tmp_path: Path, toml: str) -> None:
    with pytest.raises(SettingsError):
        configured(tmp_path, toml)


def test_no_currency_that_was_known_is_forgotten() -> None:
    """A log outlives currencies: one that ISO 4217 withdraws goes to WITHDRAWN."""
    known = json.loads((Path(__file__).with_name("minor_digits.json")).read_bytes())
    assert known.items() <= MINOR_DIGITS.items()
