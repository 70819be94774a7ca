"""Settings: defaults, then the file, then the environment; an error names the key and where it stands."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from eventstore.errors import ExposedError, SettingsError
from eventstore.limits import Limits
from providers import settings_types
from runtime.settings import Settings
from runtime.wiring import make_verifier, settings_from
from server import check_verification


def test_without_anything_the_server_is_for_this_machine_only() -> None:
    settings = settings_from({})
    assert (settings.host, settings.port, settings.database_url) == ("127.0.0.1", 8080, None)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "loopledger.toml"
    file.write_text('port = 9000\nlog_level = "debug"\n[limits]\nbody_bytes = 10\n')
    settings = settings_from({"LOOPLEDGER_CONFIG": str(file), "LOOPLEDGER_PORT": "9001"})
    assert (settings.port, settings.log_level, settings.limits.body_bytes) == (9001, "debug", 10)


def test_every_limit_can_be_set_by_the_environment() -> None:
    assert settings_from({"LOOPLEDGER_LIMITS_BODY_SECONDS": "2.5"}).limits.body_seconds == 2.5


def test_the_database_goes_by_its_usual_name() -> None:
    assert settings_from({"DATABASE_URL": "postgresql:///x"}).database_url == "postgresql:///x"


def test_variables_of_others_are_let_be() -> None:
    assert settings_from({"PATH": "/bin", "PORT": "x"}) == settings_from({})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"LOOPLEDGER_PORT": "http"},
            "port must be a whole number from 0 to 65535, not 'http' .from environment, LOOPLEDGER_PORT",
        ),
        ({"LOOPLEDGER_PORT": "70000"}, "port must be a whole number from 0 to 65535"),
        (
            {"LOOPLEDGER_PROT": "1"},
            "LOOPLEDGER_PROT is not a setting; did you mean LOOPLEDGER_PORT",
        ),
        (
            {"LOOPLEDGER_LIMITS_BODY_BYTES": "0"},
            "limits.body_bytes must be a whole number of at least 1",
        ),
        (
            {"LOOPLEDGER_LOG_LEVEL": "loud"},
            "log_level must be debug, error, info or warning, not 'loud'",
        ),
        (
            {"LOOPLEDGER_CONFIG": "/nowhere.toml"},
            "LOOPLEDGER_CONFIG names a file that does not exist, /nowhere.toml",
        ),
        ({"LOOPLEDGER_DATA_DIR": ""}, "data_dir must be a path, not ''"),
        (
            {"LOOPLEDGER_OPEN_METRICS": "yes"},
            "open_metrics must be true or false, not 'yes'",
        ),
        (
            {"LOOPLEDGER_INSECURE": "true"},
            "LOOPLEDGER_INSECURE was split in two: accept_unverified takes deliveries that nothing",
        ),
        ({"LOOPLEDGER_LOOPZ_VERIFICATION": "x"}, "loopz.verification must be a table"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_from(environ)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "prot is not a setting; did you mean port"),
        ("[limits]\nbody = 1", "limits.body is not a setting"),
        ("limits = 3", "limits must be a table"),
        ("port = ", "is not TOML: Invalid value"),
        ("host = 5", "host must be text in quotes, not 5"),
        ("[fitbank]\nswap = true", "fitbank.swap is not a setting"),
        (
            '[fitbank]\nbusiness_units = {"66" = {zone = "UTC"}}',
            "units.66.zone is not a setting; did you mean time_",
        ),
        ("[loopz.verification]\npath = [{}]", r"verification.path\[0\] is not right: needs either"),
        ("[loopz.verification]\npath = []", "verification.path must not be empty"),
        ("[loopz.verification]\nbasic = [{user = 'u'}]", r"basic\[0\].password is missing"),
        ("[loopz.verification]\ntrusted_proxies = 17", "must be a whole number from 0 to 16"),
    ],
)
def test_a_wrong_key_of_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "loopledger.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        settings_from({"LOOPLEDGER_CONFIG": str(file)})


def variables(type_: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    for field in msgspec.structs.fields(type_):
        yield f"{prefix}{field.encode_name.upper()}"


SECTIONS: dict[str, type[msgspec.Struct]] = {"limits": Limits, **settings_types()}
TOP = {field.name: field for field in msgspec.structs.fields(Settings)}
SETTINGS = [
    *(
        f"LOOPLEDGER_{name.upper()}"
        for name in TOP
        if name not in {"providers", "limits", "sources"}
    ),
    *(
        name
        for key, type_ in SECTIONS.items()
        for name in variables(type_, f"LOOPLEDGER_{key.upper()}_")
    ),
]
# Which of them take any text, as the environment has it.
TEXTS = {
    "LOOPLEDGER_URL",
    "LOOPLEDGER_KEY",
    "LOOPLEDGER_HOST",
    "LOOPLEDGER_DATABASE_URL",
    "LOOPLEDGER_RECEIVING_URL",
    "LOOPLEDGER_PROJECTING_URL",
    "LOOPLEDGER_POSTGRES_USER",
    "LOOPLEDGER_WORKER_USER",
    "LOOPLEDGER_DATA_DIR",
}

# Words of Python and of its libraries, which mean nothing to who writes settings.
FOREIGN = re.compile(
    r"`|\b(?:int|str|float|bool|dict|tuple|enum|object|array|Expected|Invalid|NoneType)\b"
)


@pytest.mark.parametrize("variable", [name for name in SETTINGS if name not in TEXTS])
@pytest.mark.parametrize("wrong", ["wrong", "-1", "", "[4711]", '{"none": 1}'])
def test_an_error_of_any_setting_speaks_of_settings(variable: str, wrong: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({variable: wrong})
    message = str(caught.value)
    assert f"(from environment, {variable})" in message
    assert not FOREIGN.search(message.replace("a JSON object", "")), message


@pytest.mark.parametrize(
    "key", [name for name in TOP if name not in {"providers", "limits", "sources"}]
)
def test_an_error_of_the_file_speaks_of_settings(tmp_path: Path, key: str) -> None:
    file = tmp_path / "loopledger.toml"
    file.write_text(f"{key} = [4711]")
    with pytest.raises(SettingsError, match=rf"{key}(\[0\])? must be ") as caught:
        settings_from({"LOOPLEDGER_CONFIG": str(file)})
    assert not FOREIGN.search(str(caught.value))


@pytest.mark.parametrize(
    "environ",
    [
        {"LOOPLEDGER_LOOPZ_VERIFICATION": "hunter2"},
        {"LOOPLEDGER_LOOPZ_VERIFICATION": '{"path": "hunter2"}'},
        {"LOOPLEDGER_LOOPZ_VERIFICATION": '{"path": ["hunter2"]}'},
        {"LOOPLEDGER_LOOPZ_VERIFICATION": '{"path": [{"env": "hunter2 "}]}'},
        {"LOOPLEDGER_FITBANK_VERIFICATION": '{"tokens": {"secrets": "hunter2"}}'},
    ],
)
def test_an_error_never_quotes_what_may_be_a_secret(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="verification") as caught:
        settings_from(environ)
    assert "hunter2" not in str(caught.value)


def test_a_database_url_of_the_wrong_kind_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "loopledger.toml"
    file.write_text('database_url = ["hunter2"]')
    with pytest.raises(SettingsError, match=r"database_url must be text in quotes \(from"):
        settings_from({"LOOPLEDGER_CONFIG": str(file)})


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (
            {"env": "NOWHERE"},
            r"is not set; set this variable for the server .*environment, NOWHERE",
        ),
        ({"file": "/nowhere/s"}, r"does not exist; write the secret to this file .*/nowhere/s"),
        ({"file": "/"}, r"cannot be read: Is a directory \(from /\)"),
    ],
)
def test_a_secret_that_is_not_there_is_named_with_its_provider_and_its_place(
    secret: dict[str, str], message: str
) -> None:
    found = json.dumps({"tokens": {"secrets": [secret]}})
    settings = settings_from({"LOOPLEDGER_FITBANK_VERIFICATION": found})
    message = rf"fitbank\.verification\.tokens\.secrets\[0\] {message}"
    with pytest.raises(SettingsError, match=message):
        make_verifier(settings, "fitbank")


def test_settings_do_not_show_a_password() -> None:
    settings = settings_from({"DATABASE_URL": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_address_of_this_machine_is_served_as_it_is(host: str) -> None:
    check_verification(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com", ""])  # noqa: S104
def test_an_address_that_others_can_reach_is_refused_unless_told_otherwise(host: str) -> None:
    with pytest.raises(ExposedError, match="--accept-unverified"):
        check_verification(Settings(host=host))
    check_verification(Settings(host=host, accept_unverified=True))


def test_a_secret_that_is_not_set_is_named_with_its_provider_before_anything_is_started() -> None:
    environ = {"LOOPLEDGER_LOOPZ_VERIFICATION": '{"tokens": {"secrets": [{"env": "NOT_SET"}]}}'}
    with pytest.raises(SettingsError) as caught:
        check_verification(settings_from(environ))
    assert str(caught.value).startswith("loopz.verification.tokens.secrets[0] is not set")
    assert "(from environment, NOT_SET)" in str(caught.value)
