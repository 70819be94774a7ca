"""Whole lists, as CSV and NDJSON: complete, in one snapshot, and what happens when they cannot be."""

import asyncio
import csv
import gzip
import io
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.query.filters import STREAM
from eventstore.query.listing import Listing, ListReader, Question
from eventstore.query.row_json import Field
from eventstore.query.visibility import Visibility
from eventstore.query.whole_lists import LineEnds, WholeList, WholeLists
from tests.conftest import StartLoopledger
from tests.support import Answer, Client

if TYPE_CHECKING:
    from asyncpg import Connection, Record

CSV, NDJSON = "text/csv", "application/x-ndjson"

# What a spreadsheet computes, and what else may stand in a name.
NAMES = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "  =1",
    "plain",
    'a "b", c',
    "two\nlines",
    "two\r\nlines",
]
FORMULA = tuple("=+-@\t\r")


async def get(client: Client, path: str, accept: str, **headers: str) -> Answer:
    return await client.request("GET", path, headers={"Accept": accept, **headers})


async def some_locations(client: Client) -> str:
    """Deliver locations with these names; gives the address of them all."""
    for n, name in enumerate(NAMES):
        await client.loopz("location.created", {"id": f"l-{n:02}", "name": name})
    return f"/v1/locations?at_least={len(NAMES)}"


def read(body: bytes) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(body.decode(), newline=""), strict=True))


async def test_a_table_holds_every_row_and_no_cell_is_a_formula(client: Client) -> None:
    path = await some_locations(client)
    items = (await client.get(path)).json["items"]
    answer = await get(client, path, CSV)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="locations.csv"'
    rows = read(answer.body)
    assert [list(row) for row in rows] == [list(item) for item in items]
    for row, item in zip(rows, items, strict=True):
        for name, value in item.items():
            shown = "" if value is None else str(value)
            assert row[name] in {shown, f"'{shown}"}
            assert not row[name].lstrip(" ").startswith(FORMULA), row[name]
    # Every line ends as RFC 4180 has it.
    assert answer.body.replace(b"two\nlines", b"").count(b"\n") == answer.body.count(b"\r\n")


async def test_a_line_is_the_object_of_a_page(client: Client) -> None:
    path = await some_locations(client)
    page = (await client.get(path)).body
    answer = await get(client, path, NDJSON)
    assert answer.headers["Content-Type"] == NDJSON
    assert b'{"items":[' + b",".join(answer.body.splitlines()) + b'],"next":null}\n' == page


async def test_numbers_stay_numbers(client: Client) -> None:
    balance = {"balance": {"amount": -1250, "currencyCode": "USD"}}
    await client.loopz("gift-card.created", {"id": "x", **balance})
    (row,) = read((await get(client, "/v1/gift-cards?at_least=1&fields=id,balance", CSV)).body)
    assert row == {"id": "x", "balance": "-1250"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/events",
        "/v1/rejections",
        "/v1/generations",
        "/v1/projections/locations/quarantine",
        "/v1/transactions",
    ],
)
async def test_every_list_is_there_in_every_form(client: Client, path: str) -> None:
    await client.loopz("location.created", {"id": "x"})
    items = (await client.get(path)).json["items"]
    lines = (await get(client, path, NDJSON)).body.splitlines()
    assert len(lines) == len(items)
    header, *rows = csv.reader(
        io.StringIO((await get(client, path, CSV)).body.decode(), newline="")
    )
    assert len(rows) == len(items)
    assert len(header) > 3


async def test_filters_sorts_and_fields_hold_for_whole_lists_too(client: Client) -> None:
    path = await some_locations(client)
    answer = await get(client, f"{path}&sort=-position&fields=id,position&search=plain", NDJSON)
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"id": "l-07", "position": 8}
    ]
    empty = f"{path}&status=none"
    assert (await get(client, empty, NDJSON)).body == b""
    assert len((await get(client, empty, CSV)).body.splitlines()) == 1


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", CSV),
        ("text/csv;q=0.5, application/x-ndjson", NDJSON),
        ("text/html, application/json;q=0.9, */*;q=0.1", "application/json"),
    ],
)
async def test_the_form_is_the_one_that_is_liked_best(
    client: Client, accept: str, media: str
) -> None:
    answer = await get(client, "/v1/events", accept)
    assert answer.headers["Content-Type"].partition(";")[0] == media
    assert "Accept" in answer.headers["Vary"]


async def test_what_cannot_be_had_is_refused_with_what_there_is(client: Client) -> None:
    answer = await get(client, "/v1/events", "application/xml")
    assert answer.status == 406
    assert answer.json["available"] == "application/json, text/csv, application/x-ndjson"


async def test_what_is_json_only_is_not_answered_to_who_wants_something_else(
    client: Client,
) -> None:
    answer = await get(client, "/v1/projections", CSV)
    assert (answer.status, answer.json["available"]) == (406, "application/json")
    assert (await get(client, "/v1/projections", "text/html, */*;q=0.1")).status == 200
    # Whoever looks after the server is answered, whatever they say.
    assert (await get(client, "/healthz", "text/html")).status == 200


async def test_a_whole_list_has_no_pages(client: Client) -> None:
    answer = await get(client, "/v1/events?limit=5", CSV)
    assert (answer.status, answer.json["parameter"]) == (400, "limit")


async def test_a_whole_list_is_compressed_for_whoever_asks(client: Client) -> None:
    path = await some_locations(client)
    plain = await get(client, path, NDJSON, **{"Accept-Encoding": "identity"})
    client.session._auto_decompress = False
    packed = await get(client, path, NDJSON, **{"Accept-Encoding": "gzip"})
    assert gzip.decompress(packed.body) == plain.body


async def test_so_many_are_read_at_one_time(start: StartLoopledger) -> None:
    limits = Limits(whole_lists=1, poll_seconds=0.05, pool_connections=5)
    async with (
        start(limits=limits) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        answers = await asyncio.gather(
            *(get(Client(session), "/v1/events", NDJSON) for _ in range(5))
        )
        assert {answer.status for answer in answers} == {200, 503}
        assert (await get(Client(session), "/v1/events", NDJSON)).status == 200


async def many_locations(client: Client, connection: "Connection[Record]") -> None:
    """Have more rows than any buffer holds: some 40 MB of them."""
    await client.loopz("location.created", {"id": "x", "name": "y" * 500})
    await client.get("/v1/locations?at_least=1")
    columns = ", ".join(
        f'"{row["name"]}"'
        for row in await connection.fetch(
            "SELECT attname AS name FROM pg_attribute WHERE attrelid = 'projected.locations_1'::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attname <> 'stream'"
        )
    )
    await connection.execute(
        f"INSERT INTO projected.locations_1 (stream, {columns})"  # noqa: S608 - names of columns
        f" SELECT stream || n, {columns} FROM projected.locations_1, generate_series(1, 60000) AS n"
    )


@pytest.mark.parametrize("media", [CSV, NDJSON])
async def test_a_list_that_breaks_off_does_not_look_whole(
    client: Client, connection: "Connection[Record]", media: str
) -> None:
    await many_locations(client, connection)
    with capture_logs() as logs:
        async with client.session.get("/v1/locations", headers={"Accept": media}) as response:
            assert response.status == 200
            await response.content.readany()
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'COPY%' AND pid <> pg_backend_pid()"
            )
            with pytest.raises(aiohttp.ClientError):
                await response.read()
    assert "list_broken_off" in [line["event"] for line in logs]


async def test_a_reader_that_does_not_read_is_cut_off(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    limits = Limits(write_seconds=0.5, poll_seconds=0.05, pool_connections=5)
    async with (
        start(limits=limits) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        client = Client(session)
        await many_locations(client, connection)
        # A small buffer: what the system takes for a reader would hold much of the list.
        with socket.socket() as reader, capture_logs() as logs:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.settimeout(0)
            url = urlsplit(loopledger.url)
            await asyncio.get_running_loop().sock_connect(reader, (url.hostname, url.port))
            head = f"GET /v1/locations HTTP/1.1\r\nHost: {url.netloc}\r\nAccept: {NDJSON}\r\n"
            head += f"Authorization: Bearer {client.key}\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(reader, head.encode())
            for _ in range(200):
                await asyncio.sleep(0.1)
                if logs:
                    break
    assert [line["event"] for line in logs] == ["list_broken_off"]


@given(
    st.lists(st.lists(st.text(alphabet='a",\n', max_size=6), min_size=2, max_size=3), max_size=8),
    st.lists(st.integers(1, 10), max_size=20),
)
def test_lines_end_right_however_the_table_is_cut(rows: list[list[str]], cuts: list[int]) -> None:
    def table(ends: str) -> bytes:
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator=ends).writerows(rows)
        return file.getvalue().encode()

    data, ends, made = table("\n"), LineEnds(), b""
    for size in cuts:
        made += ends.feed(data[:size])
        data = data[size:]
    assert made + ends.feed(data) == table("\r\n")


TEXTS = Listing(
    name="texts",
    query="list_states",
    words={"table": "texts"},
    fields={name: Field(name, name, "text", nullable=True) for name in ("stream", "name")},
    filters={},
    sorts={"id": (STREAM,)},
    merchant=None,
)
STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.one_of(STORABLE, st.text("=+-@\t\r\n \"',;\uff1da", max_size=6)), max_size=30))
@hypothesis_settings(max_examples=30)
def test_a_table_read_back_holds_the_texts_and_no_formula(dsn: str, texts: list[str]) -> None:
    async def copied() -> bytes:
        database = Database(dsn, pool_connections=1)
        connection = await database.connect()
        await connection.execute("CREATE TABLE IF NOT EXISTS texts (stream text, name text)")
        await connection.execute("TRUNCATE texts")
        numbered = [(f"{n:03}", text) for n, text in enumerate(texts)]
        await connection.copy_records_to_table("texts", records=numbered)
        await connection.close()
        chunks: list[bytes] = []

        async def take(data: bytes) -> None:
            chunks.append(data)

        whole = WholeList(TEXTS, Question(), Visibility())
        await WholeLists(database, ListReader(database), Limits()).copy(whole, "csv", take)
        ends = LineEnds()
        return b"".join(map(ends.feed, chunks))

    rows = read(asyncio.run(copied()))
    for row, text in zip(rows, texts, strict=True):
        cell = row["name"]
        assert cell in {text, f"'{text}"}
        assert not cell.lstrip().startswith(FORMULA)
        # Nothing is changed but what has to be.
        assert (
            cell == text
            or text.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))
            or text != text.lstrip()
        )
