"""No secret is shown, by any value or error."""

import io

import pytest
import rich.pretty

from eventstore.errors import LoopledgerError
from tests.support.verifying import (
    METHODS,
    check,
    delivery_with,
    refused,
    secret,
    signed,
    told_nothing,
    verification,
)
from verification.keyring import Redacted
from verification.verifier import Secret, UnverifiedError, Verifier


def shown(value: object) -> str:
    """All the ways in which a value shows itself."""
    pretty = io.StringIO()
    rich.pretty.pprint(value, console=rich.console.Console(file=pretty, width=500))
    return f"{value!r} {value} {pretty.getvalue()}"


@pytest.mark.parametrize("name", METHODS)
def test_nothing_shows_a_secret(name: str) -> None:
    checked = verification(METHODS[name])
    headers, path = signed(checked)
    head = delivery_with(headers, path)
    for value in (checked, Verifier(checked, secret), head):
        assert told_nothing(shown(value))
    problem = refused(
        verification(METHODS[name]),
        delivery_with({key: f"{value}x" for key, value in headers.items()}, f"{path}x"),
    )
    assert told_nothing(problem)
    assert not any(value in problem for value in headers.values())


def test_settings_do_not_even_show_where_a_secret_is() -> None:
    """A secret may stand there by mistake."""
    for type_ in Redacted.__subclasses__():
        assert not {"__repr__", "__rich_repr__"} & vars(type_).keys()
    assert shown(Secret(env="hunter2")).count("hunter2") == 0
    assert repr(verification(METHODS["hmac full"])) == "Verification(...)"


def test_an_error_keeps_nothing_that_could_be_printed_later() -> None:
    checked = verification(METHODS["basic"])
    with pytest.raises(UnverifiedError) as caught:
        check(checked, delivery_with({"Authorization": "Basic \udcff"}))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert caught.value.facts == {"problem": "the header Authorization holds no Basic credentials"}
    assert isinstance(caught.value, LoopledgerError)
