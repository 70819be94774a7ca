"""A cursor leads to the next page of the list that gave it out, and any other text to a 400."""

import random
from urllib.parse import quote

from projections import load_projections
from tests.support import Client
from web.app import make_routes

LISTS = [
    route.path.format(id="g-1", name="gift_cards")
    for route in make_routes(load_projections().values())
    if "cursor" in route.query.__struct_fields__
]

# Their cursors are texts; elsewhere they are positions, and so any whole number.
STATES = {"/v1/gift-cards", "/v1/transactions", "/v1/locations"}

ODD = (
    *("", "AAAA", "AAA=", "!", "\0", "null", "true", "0x1", "-1", "1.0", "1e3", "+1", " 1", "1 "),
    *("1_0", "٣", "\uff11", str(2**63), str(2**64), "9" * 40, "-" + "9" * 40, "NaN", "é", "%", "'"),
)


async def test_what_a_list_did_not_give_out_is_a_400(client: Client) -> None:
    for n in range(3):
        await client.loopz("gift-card.created", {"id": f"g-{n}", "balance": "x" if n == 2 else n})
        await client.loopz("location.created", {"id": f"l-{n}"})
    await client.get("/v1/gift-cards?at_least=6")
    await client.get("/v1/locations?at_least=6")
    given = [
        (await client.get(f"{path}?limit=1")).json["next"]
        for path in ("/v1/gift-cards", "/v1/locations")
    ]
    assert all(given)
    assert set(LISTS) > STATES
    for path in LISTS:
        foreign = {
            "/v1/gift-cards": given[1:],
            "/v1/locations": given[:1],
        }.get(path, given)
        for cursor in (*ODD, *foreign, *map(chance, range(8))):
            answer = await client.get(f"{path}?cursor={quote(cursor, safe='')}")
            if answer.status in {200, 404}:
                assert cursor.isascii()
                assert cursor.isdigit()
                assert path not in STATES
                continue
            assert (answer.status, answer.json.get("parameter")) == (400, "cursor"), (path, cursor)
    again = (await client.get(f"/v1/gift-cards?limit=1&cursor={given[0]}")).json
    assert [item["id"] for item in again["items"]] == ["g-1"]


def chance(seed: int) -> str:
    source = random.Random(seed)
    alphabet = "0123456789" if seed % 2 else "ABCxyz019-_=/+.~ "
    return "".join(source.choices(alphabet, k=source.randrange(1, 60)))
