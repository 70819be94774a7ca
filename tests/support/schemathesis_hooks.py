"""What Schemathesis cannot know of the API; it loads this by SCHEMATHESIS_HOOKS."""

from typing import Any

import schemathesis
from schemathesis import Case, HookContext


@schemathesis.hook
def before_call(_context: HookContext, case: "Case[Any]", _kwargs: dict[str, object]) -> None:
    """Leave out a cursor of its own: one is opaque, and none but those that the same list gave out is right."""
    if case.meta is not None and case.meta.generation.mode.is_positive:
        case.query.pop("cursor", None)


@schemathesis.deserializer("application/octet-stream", "application/openmetrics-text")
def read_bytes(_context: object, response: schemathesis.Response) -> object:
    """Bytes are what they are."""
    return response.content.decode("latin-1")
