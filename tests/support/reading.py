"""What a provider reads in a delivery, in the form of an expectation."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from eventstore.log.events import Event
from providers import load_providers, settings_types
from providers.facts import Fact
from providers.provider import (
    Provider,
    Recognised,
    UndecodableError,
    UnidentifiedError,
    UnparsableError,
)
from runtime.settings import load_settings

# Later than any recorded delivery says that something happened.
RECEIVED_AT = datetime(2027, 1, 1, tzinfo=UTC)

PURCHASE = "UpdatePurchaseClosedLoopStatusMongo"


def configured(
    directory: Path, toml: str = "", environ: Mapping[str, str] | None = None
) -> dict[str, Provider]:
    """The providers, set up as an operator would."""
    file = directory / "loopledger.toml"
    file.write_text(toml, "utf-8")
    found = load_settings({"LOOPLEDGER_CONFIG": str(file), **(environ or {})}, settings_types())
    return load_providers(found.providers)


def read(provider: Provider, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """What becomes of a delivery, in the form of an expectation."""
    try:
        recognised = provider.recognise(headers, body)
    except (UnparsableError, UnidentifiedError) as error:
        return {"refused": told(error)}
    found = {"recognised": msgspec.structs.asdict(recognised)}
    if recognised.subscription_id is None:
        del found["recognised"]["subscription_id"]
    if recognised.topic not in provider.topics:
        return {**found, "fact": None}
    try:
        return {**found, "fact": shown(provider.decode(on_log(provider, recognised, body)))}
    except (UndecodableError, msgspec.ValidationError) as error:
        return {**found, "undecodable": told(error)}


def on_log(provider: Provider, recognised: Recognised, body: bytes) -> Event:
    """The delivery as it stands in the log."""
    topic, merchant_id, program_id, stream, _ = msgspec.structs.astuple(recognised)
    return Event(
        *(1, UUID(int=1), provider.name, topic, merchant_id, program_id, stream),
        *(RECEIVED_AT, RECEIVED_AT, body),
    )


def told(error: Exception) -> str:
    """An error by its class and its text."""
    return f"{type(error).__name__}: {error}"


def shown(fact: Fact) -> dict[str, Any]:
    """A fact by its type and the fields that are set, less those that come from its event."""
    values = {
        field.name: value
        for field in msgspec.structs.fields(fact)
        if field.name not in {"provider", "merchant_id", "program_id", "received_at"}
        and (value := getattr(fact, field.name)) is not field.default
    }
    return {type(fact).__name__: msgspec.to_builtins(values)}
