"""The settings: one typed value from defaults, then `loopledger.toml`, then the environment.

A key `name` of the top level is `LOOPLEDGER_NAME`; a key of a section is `LOOPLEDGER_SECTION_NAME`. A value of the
environment that is a table or a list is written as JSON. `DATABASE_URL` goes by its usual name.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from eventstore.errors import SettingsError
from eventstore.limits import Limits, Positive
from runtime.settings_problems import convert, find_problem, no_such_setting

PREFIX = "LOOPLEDGER_"
CONFIG = "LOOPLEDGER_CONFIG"
DEFAULT_CONFIG = "loopledger.toml"

HeaderName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]

# Scheme, host and port, as browsers send them; none that stands for all.
Origin = Annotated[str, msgspec.Meta(pattern="^https?://[a-z0-9.-]+(:[0-9]{1,5})?$")]

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. `providers` holds the section of each provider, by its name.

    `url` and `key` are for commands only. `sources` says where each setting that is not a default was read, by its key.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    url: str | None = None
    key: str | None = None
    workers: Positive = 1
    data_dir: Path | None = None
    database_url: str | None = None
    receiving_url: str | None = None
    projecting_url: str | None = None
    postgres_user: str | None = None
    worker_user: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    accept_unverified: bool = False
    answer_without_keys: bool = False
    open_metrics: bool = False
    rebuild: Literal["ask", "auto"] = "ask"
    keep_headers: tuple[HeaderName, ...] = ()
    cors_origins: tuple[Origin, ...] = ()
    limits: Limits = Limits()
    providers: dict[str, msgspec.Struct] = {}
    sources: dict[str, str] = {}

    def __repr__(self) -> str:
        # A database URL and a provider's section may hold secrets.
        return f"Settings(host={self.host!r}, port={self.port}, ...)"


def load_settings(
    environ: Mapping[str, str], provider_settings: Mapping[str, type[msgspec.Struct]]
) -> Settings:
    """Read the settings.

    `provider_settings` gives the type of each provider's section. Raises SettingsError, which names the key and
    its source.
    """
    path = environ.get(CONFIG)
    file = Path(path or DEFAULT_CONFIG)
    tables = _read_toml(file, required=path is not None)
    sections: dict[str, type[msgspec.Struct]] = {"limits": Limits, **provider_settings}
    top = _fields(Settings) - {"limits", "providers", "sources"}

    _refuse_unknown(tables, {*top, *sections}, "", str(file))
    values: dict[str, Any] = {k: v for k, v in tables.items() if k not in sections}
    sources = dict.fromkeys(values, str(file))
    section_values: dict[str, dict[str, Any]] = {}
    for name, type_ in sections.items():
        table = tables.get(name, {})
        if not isinstance(table, dict):
            raise SettingsError(key=name, problem=f"must be a table, [{name}]", source=file)
        _refuse_unknown(table, _fields(type_), f"{name}.", str(file))
        section_values[name] = dict(table)
        sources.update(dict.fromkeys((f"{name}.{key}" for key in table), str(file)))

    known = dict(_variables(top, sections))
    for variable, text in environ.items():
        if variable not in known:
            if variable.startswith(PREFIX) and variable != CONFIG:
                problem = no_such_setting(variable, known)
                raise SettingsError(key=variable, problem=problem, source="the environment")
            continue
        section, key = known[variable]
        target = section_values[section] if section else values
        target[key] = _parse(text)
        sources[f"{section}.{key}" if section else key] = f"environment, {variable}"

    converted = {
        name: _convert(section_values[name], type_, f"{name}.", sources)
        for name, type_ in sections.items()
    }
    limits = converted.pop("limits")
    base: Settings = _convert(values, Settings, "", sources)
    return msgspec.structs.replace(base, limits=limits, providers=converted, sources=sources)


def _variables(
    top: set[str], sections: Mapping[str, type[msgspec.Struct]]
) -> Iterator[tuple[str, tuple[str, str]]]:
    for key in top:
        yield ("DATABASE_URL" if key == "database_url" else f"{PREFIX}{key.upper()}"), ("", key)
    for section, type_ in sections.items():
        for key in _fields(type_):
            yield f"{PREFIX}{section.upper()}_{key.upper()}", (section, key)


def _fields(type_: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(type_)}


def _read_toml(file: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if required:
            raise SettingsError(
                key=CONFIG,
                problem=f"names a file that does not exist, {file}",
                source="the environment",
            ) from None
        return {}
    except OSError as error:
        raise _unreadable(file, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _unreadable(file, "is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(file, f"is not TOML: {error}") from None


def _unreadable(file: Path, problem: str) -> SettingsError:
    return SettingsError(key="The settings file", problem=problem, source=file)


def _refuse_unknown(table: Mapping[str, Any], known: set[str], prefix: str, source: str) -> None:
    for key in table:
        if key not in known:
            problem = no_such_setting(key, known)
            raise SettingsError(key=prefix + key, problem=problem, source=source)


def _parse(text: str) -> object:
    """A table or a list is JSON; anything else is text, which `_convert` turns into what the key wants."""
    if text[:1] in "{[" and text:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return text


def _convert(
    values: dict[str, Any], type_: type[msgspec.Struct], prefix: str, sources: Mapping[str, str]
) -> Any:  # noqa: ANN401 - whatever `type_` makes
    # Key by key, so that an error names the one at fault.
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    given: dict[str, Any] = {}
    for key, value in values.items():
        field = fields[key]
        try:
            given[field.name] = convert(value, field.type)
        except msgspec.ValidationError:
            problem = find_problem(prefix + key, value, field.type)
            raise SettingsError(
                key=problem.key, problem=problem.text, source=sources[prefix + key]
            ) from None
    return type_(**given)
