"""What a start says on standard output: where the server is, who may do what, and commands to try that work."""

import importlib.metadata
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from eventstore.errors import LoopledgerError
from providers import load_providers
from runtime.example import SignedDelivery, check_example, sign_example, verification_of
from runtime.settings import Settings
from verification.keyring import Secret
from web.locality import is_loopback


def banner(settings: Settings, *, url: str, storage: str, head: int, has_keys: bool) -> str:
    """The banner. `url` is where this machine reaches the server, `head` the newest position.

    `has_keys`: there is a key, or was, so that nobody reads without one.

    It never holds a secret: where one is needed, a command of ours reads it from where the settings say it is.
    """
    facts = {
        "data": storage,
        "on record": f"{head:,} events",
        **_reach(settings, has_keys=has_keys),
    }
    width = max(map(len, facts))
    lines = [
        "",
        f"Loopledger {importlib.metadata.version('loopledger')} is running at {url}",
        *(f"  {name:<{width}}  {fact}" for name, fact in facts.items()),
        "",
        *_proposals(settings, url, head, needs_key=_needs_key(settings, has_keys=has_keys)),
        "",
        "Ctrl-C stops it.",
        "",
    ]
    return "\n".join(lines)


def program() -> str:
    """How to call `loopledger` from another terminal."""
    own = Path(sys.executable).parent / "loopledger"
    if not own.exists():
        return f"{shlex.quote(sys.executable)} -m commands"
    found = shutil.which("loopledger")
    if found is not None and Path(found).resolve() == own.resolve():
        return "loopledger"
    return shlex.quote(str(own))


def _reach(settings: Settings, *, has_keys: bool) -> dict[str, str]:
    """Who reaches what."""
    found = {}
    if not is_loopback(settings.host):
        host = settings.host or "0.0.0.0"  # noqa: S104 - as it is listened on
        found["listening"] = f"on {host}, for other machines too"
    if settings.accept_unverified:
        found["deliveries"] = "ACCEPTED UNVERIFIED from whoever reaches it (--accept-unverified)"
    if settings.answer_without_keys:
        found["API"] = "ANSWERS WITHOUT KEYS whoever reaches it (--answer-without-keys)"
    elif has_keys:
        found["API"] = "for whoever has a key"
    elif _needs_key(settings, has_keys=False):
        found["API"] = f"for whoever has a key: {program()} keys create"
    else:
        found["API"] = f"for this machine only, to read; for more: {program()} keys create"
    return found


def _needs_key(settings: Settings, *, has_keys: bool) -> bool:
    """Whether this machine needs a key to read."""
    from_here = is_loopback(settings.host) or _is_any(settings.host)
    return not settings.answer_without_keys and (has_keys or not from_here)


def _proposals(settings: Settings, url: str, head: int, *, needs_key: bool) -> Iterator[str]:
    delivery, condition = _deliverable(settings)
    key = ' -H "Authorization: Bearer $LOOPLEDGER_KEY"' if needs_key else ""
    if needs_key:
        condition += ", with LOOPLEDGER_KEY set to a key"
    yield f"Try it{condition}:"
    if delivery is not None:
        name, signed = delivery
        yield f"  {_delivering(settings, name, signed, url)}"
        _, merchant, kind, id_ = signed.recognised.stream.split("/")
        path = f"/v1/{kind}s/{id_}?merchant_id={merchant}&at_least={head + 1}"
        yield f"  curl{key} {shlex.quote(url + path)}"
    yield f"  curl{key} {url}/v1/projections"


def _is_any(host: str) -> bool:
    return host in {"", "0.0.0.0", "::"}  # noqa: S104


def _deliverable(settings: Settings) -> tuple[tuple[str, SignedDelivery] | None, str]:
    """The first provider whose example is taken from here, with it; and what its command depends on."""
    for name in sorted(load_providers(settings.providers), key=lambda name: name != "loopz"):
        try:
            signed = sign_example(settings, name)
            check_example(settings, name, signed)
        except LoopledgerError:
            continue
        secrets = list(_secrets_in(verification_of(settings, name)))
        needed = sorted({secret.env for secret in secrets if secret.env})
        relative = any(secret.file and not Path(secret.file).is_absolute() for secret in secrets)
        conditions = [
            *([f"in {Path.cwd()}"] if relative else []),
            *([f"with {' and '.join(needed)} set as here"] if needed else []),
        ]
        return (name, signed), "".join(f", {each}" for each in conditions)
    return None, " (no provider's deliveries are taken from this machine)"


def _delivering(settings: Settings, name: str, signed: SignedDelivery, url: str) -> str:
    """The command that sends the example."""
    if verification_of(settings, name).configured:
        words = ["sign", name, "--send", "--url", url]
        return " ".join([*_references(settings, name), program(), *map(shlex.quote, words)])
    headers = [
        f"-H {shlex.quote(f'{header}: {value}')}"
        for header, value in signed.headers.items()
        if header != "Content-Type"
    ]
    return " ".join(["curl", url + signed.path, *headers, "-d", shlex.quote(signed.body.decode())])


def _references(settings: Settings, name: str) -> Iterator[str]:
    """Settings that say where the secrets are, for a terminal that does not have them; never the secrets."""
    sources = {source for key, source in settings.sources.items() if key.startswith(f"{name}.")}
    for source in sorted(sources):
        where, _, variable = source.partition(", ")
        if where == "environment":
            value = msgspec.json.encode(_plain(verification_of(settings, name))).decode()
            if variable.endswith("_VERIFICATION"):
                yield f"{variable}={shlex.quote(value)}"
        else:
            yield f"LOOPLEDGER_CONFIG={shlex.quote(str(Path(source).absolute()))}"


def _plain(value: object) -> object:
    """A Struct as what the settings say: without what is not set."""
    if isinstance(value, msgspec.Struct):
        given = {
            field.encode_name: getattr(value, field.name)
            for field in msgspec.structs.fields(value)
            if getattr(value, field.name) != field.default
        }
        return {name: _plain(one) for name, one in given.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _secrets_in(value: object) -> Iterator[Secret]:
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _secrets_in(getattr(value, name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _secrets_in(one)
