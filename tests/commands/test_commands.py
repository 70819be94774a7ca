"""The commands as they are typed, and where no server answers."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import commands
from commands import rebuild
from tests.support import ROOT
from tests.support.fake_loopledger import SAME, FakeLoopledger, building, built, ready
from tests.support.running_commands import Serve, rebuilt, run_command

UNHEARD = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("serve", "--workers", "abc"),
            "--workers: must be a whole number of at least 1, not 'abc'",
        ),
        (("serve", "--workers", "0"), "--workers: must be a whole number of at least 1, not '0'"),
        (("quarantine", "list", "--limit", "-3"), "--limit: must be a whole number of at least 1"),
        (("rejections", "show", "x"), "id: must be a whole number of at least 1, not 'x'"),
        (("simulate", "--rate", "x"), "--rate: must be a number greater than 0, not 'x'"),
        (("simulate", "--late", "2"), "--late: must be a number from 0 to 1, not '2'"),
        (
            ("sign", "loopz", "--body", "/nowhere"),
            "--body: must be a file that can be read, not '/nowhere': No such file or directory",
        ),
        (("projections", "extra"), "loopledger projections: error: unrecognized arguments: extra"),
        (("projections", "--url", "nonsense"), "--url: must be the address of a server, like http"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_must_be(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        commands.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["rejections", "retry", "1", "--trust", "x"], ["failover", "show"]]
)
@pytest.mark.parametrize("directory", ["missing", "empty", "stopped"])
async def test_where_no_postgres_runs_a_command_that_needs_it_says_so(
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    directory: str,
    words: list[str],
) -> None:
    fake = await serve(FakeLoopledger())
    data_dir = tmp_path / directory
    if directory != "missing":
        data_dir.mkdir()
    if directory == "stopped":
        for name in ("passwords", "postgres", "socket"):
            (data_dir / name).mkdir()
        (data_dir / "lock").touch()
        (data_dir / "passwords" / "loopledger_owner").write_text("*:*:*:loopledger_owner:secret\n")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("LOOPLEDGER_DATA_DIR", str(data_dir))
    monkeypatch.setenv("LOOPLEDGER_URL", fake.url)
    assert await asyncio.to_thread(commands.main, words) == 1
    error = capsys.readouterr().err
    assert f"No embedded Postgres runs at {data_dir}. Start the server" in error
    assert "Check DATABASE_URL" not in error


@pytest.mark.parametrize("options", [(), ("--promote",), ("--discard",), ("--rollback",)])
async def test_where_no_server_answers_the_exit_code_is_2(options: tuple[str, ...]) -> None:
    code, _, err = await run_command(rebuild, UNHEARD, "transactions", *options)
    assert code == 2
    assert f"No server answers at {UNHEARD}" in err


async def test_another_server_is_told_apart(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([{"hello": "world"}], under_way=True))
    code, _, err = await rebuilt(fake)
    assert code == 1
    assert "is not what Loopledger sends" in err
    assert "missing required field" in err


async def test_the_commands_are_there(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    fake = await serve(FakeLoopledger(built(SAME)))
    for arguments in (
        ["projections", "--url", fake.url],
        ["rebuild", "transactions", "--promote-if-unchanged", "--url", fake.url],
        ["quarantine", "--url", fake.url, "list"],
        ["quarantine", "show", "transactions", "17", "--url", fake.url],
    ):
        assert await asyncio.to_thread(commands.main, arguments) == 0
    assert "Generation 2 of transactions is live." in capsys.readouterr().out


def test_without_a_command_all_of_them_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in commands.load_commands())


def test_the_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["rebuild", "--help"])
    text = capsys.readouterr().out
    for code in ("0  done", "1  the server", "2  no server", "3  there are", "130  interrupted"):
        assert code in text


async def test_control_c_leaves_the_rebuild_running_and_says_so(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([building(10)]))
    process = await asyncio.create_subprocess_exec(*words(fake), cwd=ROOT, stderr=subprocess.PIPE)
    await fake.looked_at(2)
    process.send_signal(signal.SIGINT)
    err = (await process.communicate())[1].decode()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted; the rebuild continues in the server" in err
    assert f"loopledger rebuild transactions --discard --url {fake.url}" in err
    assert fake.posts == ["rebuild"]


@pytest.mark.parametrize(("answer", "code", "live"), [(b"y\n", 0, 2), (None, 130, 1)])
async def test_the_question_is_asked_on_a_real_terminal(
    serve: Serve, answer: bytes | None, code: int, live: int
) -> None:
    fake = await serve(FakeLoopledger([ready()]))
    here, there = os.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *words(fake), cwd=ROOT, stdin=there, stdout=there, stderr=there
        )
        # Reading ends when the command does, and not before.
        os.close(there)
        shown = b""
        while b"Promote generation 2? [y/N] " not in shown:
            shown += await asyncio.to_thread(os.read, here, 4096)
        if answer:
            os.write(here, answer)
        else:
            process.send_signal(signal.SIGINT)
        assert await process.wait() == code
    finally:
        os.close(here)
    assert fake.live == live


def words(fake: FakeLoopledger) -> list[str]:
    return [sys.executable, "-m", "commands", "rebuild", "transactions", "--url", fake.url]
