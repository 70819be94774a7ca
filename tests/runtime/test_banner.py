"""What a start says: its commands are pasted into another terminal, under every way to verify a delivery."""

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from providers import settings_types
from runtime.banner import banner
from runtime.settings import Settings
from runtime.wiring import settings_from
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.verified import SECRET, VERIFICATIONS, WHSEC

SECRETS = {
    "DOOR_PATH": "a-path-secret-of-some-length",
    "DOOR_SECRET": SECRET,
    "DOOR_TOKEN": "a-token-of-some-length",
    "DOOR_WHSEC": WHSEC,
}

HERE = {"addresses": ["127.0.0.0/8"], "merchant_ids": ["m-7"], "subscription_ids": ["s-7"]}
ELSEWHERE = {"addresses": ["192.0.2.0/24"]}
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "tenants": HERE,
    **VERIFICATIONS,
    "hmac and tenants": VERIFICATIONS["hmac"] | HERE,
}


def said(settings: Settings, url: str = "http://127.0.0.1:8080", *, has_keys: bool = False) -> str:
    return banner(settings, url=url, storage="somewhere", head=0, has_keys=has_keys)


def pasted(line: str, directory: Path, names: set[str]) -> str:
    """What a line prints in a terminal that knows nothing but the secrets of these names."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    secrets = {name: SECRETS[name] for name in names}
    result = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=directory,
        env=kept | secrets,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, (line, result.stdout, result.stderr)
    return result.stdout


@pytest.fixture(autouse=True)
def secrets_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("source", ["environment", "file"])
@pytest.mark.parametrize("way", list(WAYS))
async def test_the_commands_that_a_start_proposes_work_when_pasted(
    start: StartLoopledger, way: str, source: str, tmp_path: Path
) -> None:
    verification = json.dumps(WAYS[way])
    environ = {"LOOPLEDGER_LOOPZ_VERIFICATION": verification} if WAYS[way] else {}
    if source == "file":
        file = tmp_path / "settings.toml"
        file.write_text(f"[loopz]\nverification = {toml(WAYS[way])}\n" if environ else "")
        environ = {"LOOPLEDGER_CONFIG": str(file)}
    settings = settings_from(environ)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with start(providers=settings.providers) as loopledger:
        text = said(settings, loopledger.url)
        needed = set(re.findall(r"DOOR_\w+", text.partition("Try it")[2].partition(":\n")[0]))
        lines = re.findall(
            r"^  ((?:\w+='?.*'? )?(?:'.*loopledger'|\S*(?:curl|loopledger)) .*)$",
            text,
            re.MULTILINE,
        )
        delivering, reading, listing = lines
        answers = [
            await asyncio.to_thread(pasted, line, elsewhere, needed)
            for line in (delivering, reading, listing)
        ]
        async with aiohttp.ClientSession(loopledger.url) as session:
            refused = (await Client(session).get("/v1/rejections")).json["items"]
    assert json.loads(answers[0]) == {"position": 1}
    assert json.loads(answers[1])["position"] == 1
    assert len(json.loads(answers[2])["items"]) == 3
    assert refused == []
    assert [secret for secret in SECRETS.values() if secret in text] == []


def test_where_one_provider_is_not_taken_from_here_another_is_proposed() -> None:
    providers = settings_types()
    elsewhere = msgspec.convert({"verification": ELSEWHERE}, providers["loopz"])
    text = said(Settings(providers={"loopz": elsewhere}))
    assert "/webhooks/fitbank" in text
    both = {
        name: msgspec.convert({"verification": ELSEWHERE}, providers[name]) for name in providers
    }
    text = said(Settings(providers=both))
    assert "Try it (no provider's deliveries are taken from this machine):\n" in text
    assert "/webhooks/" not in text


def test_a_secret_whose_path_is_relative_is_found_in_the_directory_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("a-token-of-some-length")
    monkeypatch.chdir(tmp_path)
    verification = {"verification": {"tokens": {"secrets": [{"file": "secret"}]}}}
    providers = {"loopz": msgspec.convert(verification, settings_types()["loopz"])}
    assert f"Try it, in {tmp_path}:\n" in said(Settings(providers=providers))


EVERYWHERE = "0.0.0.0"  # noqa: S104 - where it listens


@pytest.mark.parametrize(
    ("settings", "has_keys", "who"),
    [
        (Settings(), False, "for this machine only, to read; for more: "),
        (Settings(), True, "for whoever has a key\n"),
        (Settings(host=EVERYWHERE), False, "for this machine only, to read; for more: "),
        (Settings(host="192.0.2.1"), False, "for whoever has a key: "),
        (Settings(host=EVERYWHERE, answer_without_keys=True), True, "ANSWERS WITHOUT KEYS whoever"),
    ],
)
def test_a_start_says_who_may_ask(settings: Settings, who: str, *, has_keys: bool) -> None:
    text = said(settings, has_keys=has_keys)
    assert re.search(rf"^  API +{who}", text, re.MULTILINE)
    elsewhere = re.search(
        r"^  listening +on 0\.0\.0\.0, for other machines too", text, re.MULTILINE
    )
    assert (elsewhere is not None) == (settings.host == EVERYWHERE)
    assert "http://0.0.0.0" not in text
    needs = "Bearer $LOOPLEDGER_KEY" in text
    assert needs == ("has a key" in who)
    assert ("with LOOPLEDGER_KEY set to a key:" in text) == needs


def test_a_start_says_that_deliveries_are_accepted_unverified() -> None:
    assert "UNVERIFIED" not in said(Settings(answer_without_keys=True))
    text = said(Settings(accept_unverified=True))
    assert "ACCEPTED UNVERIFIED from whoever reaches it (--accept-unverified)" in text
    assert "ANSWERS WITHOUT KEYS" not in text


def toml(value: object) -> str:
    """A value as TOML has it, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)
