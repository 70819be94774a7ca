"""Settings: defaults, then the file, then the environment; an error names the key and where it stands."""

from pathlib import Path

import pytest

from eventstore.errors import ExposedError, SettingsError
from runtime.settings import Settings
from runtime.wiring import settings_from
from server import refuse_exposure


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
        ({"LOOPLEDGER_PORT": "http"}, "port: Expected `int`.*environment, LOOPLEDGER_PORT"),
        ({"LOOPLEDGER_PORT": "70000"}, "port: Expected `int` <= 65535"),
        (
            {"LOOPLEDGER_PROT": "1"},
            "LOOPLEDGER_PROT: no such setting; did you mean LOOPLEDGER_PORT",
        ),
        ({"LOOPLEDGER_LIMITS_BODY_BYTES": "0"}, "limits.body_bytes: Expected `int` >= 1"),
        ({"LOOPLEDGER_LOG_LEVEL": "loud"}, "log_level: Invalid enum value"),
        ({"LOOPLEDGER_CONFIG": "/nowhere.toml"}, "LOOPLEDGER_CONFIG: no such file.*/nowhere.toml"),
        ({"LOOPLEDGER_DATA_DIR": ""}, "data_dir"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_from(environ)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "prot: no such setting; did you mean port"),
        ("[limits]\nbody = 1", "limits.body: no such setting"),
        ("limits = 3", "limits: must be a table"),
        ("port = ", "Invalid value"),
        ("[fitbank]\nswap = true", "fitbank.swap: no such setting"),
        ('[fitbank]\nbusiness_units = {"66" = {zone = "UTC"}}', "fitbank.business_units"),
    ],
)
def test_a_wrong_key_of_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "loopledger.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        settings_from({"LOOPLEDGER_CONFIG": str(file)})


def test_settings_do_not_show_a_password() -> None:
    settings = settings_from({"DATABASE_URL": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_address_of_this_machine_is_served_as_it_is(host: str) -> None:
    refuse_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com", ""])  # noqa: S104
def test_an_address_that_others_can_reach_is_refused_unless_told_otherwise(host: str) -> None:
    with pytest.raises(ExposedError, match="--insecure"):
        refuse_exposure(Settings(host=host))
    refuse_exposure(Settings(host=host, insecure=True))
