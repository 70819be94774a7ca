"""docs/verification.md: every snippet works, and every setting is shown."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.settings import load_settings
from tests.support import ROOT
from tests.support.verifying import (
    VALUES,
    Section,
)
from verification.keyring import Redacted
from verification.verifier import Secret, Verification, Verifier

PAGE = ROOT / "docs" / "verification.md"

SNIPPETS = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def always(value: str) -> Callable[[Secret], bytes]:
    """A reader that finds the same secret everywhere."""
    return lambda _: value.encode()


@pytest.mark.parametrize("toml", SNIPPETS, ids=lambda text: re.sub(r"\W+", "-", text)[:50])
def test_every_snippet_of_the_page_is_settings_that_work(tmp_path: Path, toml: str) -> None:
    file = tmp_path / "loopledger.toml"
    file.write_text(toml, "utf-8")
    found = load_settings({"LOOPLEDGER_CONFIG": str(file)}, {"loopz": Section, "fitbank": Section})
    for section in found.providers.values():
        assert isinstance(section, Section)
        checked = section.verification
        assert checked == Verification() or checked.configured
        Verifier(checked, always(VALUES["WHSEC" if checked.standard_webhooks else "PATH"]))


def test_the_page_shows_every_setting() -> None:
    shown_in = "\n".join(SNIPPETS)
    for type_ in Redacted.__subclasses__():
        for name in type_.__struct_fields__:
            assert re.search(rf"\b{name}\b", shown_in), name
