"""A server that says about one projection what docs/api.md promises, by a script."""

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.receiving import healthz

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds within which a command asks.
SOON = 20.0

ROWS = {"before": 40, "after": 40, "added": 0, "gone": 0, "changed": 0}
UNCHANGED = {"before": 90, "after": 90, "added": 0, "gone": 0, "changed": 0}
TIMELINE = {"name": "transactions_timeline"} | UNCHANGED
POSTINGS = {"name": "transactions_postings"} | UNCHANGED
SAME: dict[str, Any] = {
    "position": 5210,
    "live_position": 5210,
    "rows": ROWS,
    "columns": {},
    "totals": None,
    "sample": [],
    "timeline": TIMELINE,
    "postings": POSTINGS,
}
DIFFERENT: dict[str, Any] = {
    "position": 5210,
    "live_position": 5210,
    "rows": ROWS | {"after": 41, "added": 1, "changed": 12},
    "columns": {"phase": 3, "kind": 12},
    "totals": {
        "amount": "amount",
        "by": ["phase", "currency"],
        "items": [
            {
                "phase": "settled",
                "currency": "BRL",
                "before": "18250.00",
                "after": "19475.5",
                "change": "1225.5",
            },
            {
                "phase": "failed",
                "currency": None,
                "before": "120.00",
                "after": "120.00",
                "change": "0.00",
            },
        ],
    },
    "timeline": TIMELINE | {"after": 93, "added": 3},
    "postings": POSTINGS | {"changed": 2},
    "sample": [
        {
            "stream": "fitbank/66/transaction/TRA1",
            "diverged_at": 17,
            "changes": {"kind": {"before": "withdrawal", "after": "deposit"}},
        },
        {
            "stream": "loopz/m-1/transaction/t-9",
            "diverged_at": None,
            "changes": {
                "reference": {"before": None, "after": "po\u001b[2J-77"},
                "tip": {"before": "", "after": 2},
            },
        },
    ],
}


def building(percent: float, **changes: object) -> dict[str, Any]:
    """A rebuild, so far."""
    return {
        "name": "transactions",
        "generation": 2,
        "status": "building",
        "wanted": None,
        "target": 5210,
        "percent": percent,
        "events_per_second": 1234,
        "seconds_left": 75,
        "checkpoint": 521,
        "lag": 4689,
        "folded": 500,
        "ignored": 21,
        "quarantined": 0,
        "error": None,
        "started_at": "2026-01-01T12:00:00Z",
        "ready_at": None,
        "diff": None,
        **changes,
    }


def ready(diff: object = DIFFERENT, **changes: object) -> dict[str, Any]:
    """A rebuild that is ready, with its diff."""
    facts = {"folded": 5000, "ignored": 210, "ready_at": "2026-01-01T12:00:04.200Z"}
    return building(100, status="ready", **facts, diff=diff, **changes)


def built(diff: object = DIFFERENT) -> list[Any]:
    """All that is seen of a rebuild."""
    return [
        building(10),
        building(60),
        building(100, status="catching-up", lag=12),
        ready(diff),
    ]


def _problem(status: int, slug: str, detail: str) -> web.Response:
    body = {"type": f"urn:loopledger:problem:{slug}", "status": status, "detail": detail}
    return web.json_response(body, status=status, content_type="application/problem+json")


class FakeLoopledger:
    """A server with one projection. Each look at its rebuild gets the next of `script`, and the last for ever.

    A number in the script is a status to answer with. `slowly`: what is asked for is answered 202, and done so many
    looks later. `deaf_to`: an action that is not answered the first time, though done if `heeds`.
    """

    def __init__(
        self,
        script: list[Any] | None = None,
        *,
        under_way: bool = False,
        slowly: int = 0,
        deaf_to: str = "",
        heeds: bool = True,
    ) -> None:
        self.script = script or built()
        self.under_way = under_way
        self.slowly, self.deaf_to, self.heeds = slowly, deaf_to, heeds
        self.live = 1
        self.retired: int | None = None
        self.retired_error: str | None = None
        self.stale = True
        self.looks = 0
        self.posts: list[str] = []
        self.port = 0
        self._looked = asyncio.Condition()
        self._due: list[Callable[[], None]] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before."""
        app = web.Application()
        path = "/v1/projections/transactions"
        app.router.add_get("/healthz", healthz)
        app.router.add_get("/v1/projections", self._list_projections)
        app.router.add_get(path, self._show_projection)
        app.router.add_get(f"{path}/rebuild", self._show_rebuild)
        app.router.add_post(path + "/{action}", self._act)
        app.router.add_get("/v1/projections/{name}/quarantine", self._list_quarantine)
        app.router.add_get(f"{path}/quarantine/17", self._show_quarantined)
        app.router.add_get("/v1/events/17", self._show_event)
        app.router.add_get("/v1/events/17/body", self._show_body)
        app.router.add_get("/v1/projections/{rest:.+}", self._nothing)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Go away."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def looked_at(self, times: int) -> None:
        """Return once its rebuild was asked for so many times."""
        async with asyncio.timeout(SOON), self._looked:
            await self._looked.wait_for(lambda: self.looks >= times)

    def _projection(self, **changes: object) -> dict[str, Any]:
        return {
            "name": "transactions",
            "generation": self.live,
            "status": "live",
            "version": 1,
            "checkpoint": 5210,
            "head": 5212,
            "lag": 2,
            "stuck": False,
            "folded": 4991,
            "ignored": 210,
            "quarantined": 9,
            "error": None,
            "stale": self.stale,
            "created_at": "2026-01-01T12:00:00Z",
            "updated_at": "2026-01-01T12:00:00Z",
            "retired_at": None,
            "advice": "other code folded it; run: loopledger rebuild transactions",
            **changes,
        }

    def _details(self) -> dict[str, Any]:
        live = self._projection()
        retired = live | {
            "generation": self.retired,
            "status": "retired",
            "error": self.retired_error,
        }
        generations = [live] if self.retired is None else [retired, live]
        return live | {"generations": generations}

    async def _list_projections(self, _: web.Request) -> web.Response:
        fine = {"name": "locations", "stale": False, "advice": None, "quarantined": 0}
        held_up = fine | {"name": "gift_cards", "error": "DiskFullError: no space left (53100)"}
        items = [self._projection(**held_up), self._projection(**fine), self._projection()]
        return web.json_response({"items": items, "next": None})

    async def _show_projection(self, _: web.Request) -> web.Response:
        return web.json_response(self._details())

    async def _show_rebuild(self, _: web.Request) -> web.Response:
        if not self.under_way:
            return _problem(404, "not-found", "There is no rebuild of transactions.")
        self.looks += 1
        async with self._looked:
            self._looked.notify_all()
        if self.slowly and self._due:
            self.slowly -= 1
        elif self._due:
            self._due.pop()()
            return await self._show_rebuild(_)
        answer = self.script[0] if len(self.script) == 1 else self.script.pop(0)
        if isinstance(answer, int):
            return _problem(answer, "unavailable", "Postgres does not answer.")
        return web.json_response(answer)

    async def _act(self, request: web.Request) -> web.Response:
        action = request.match_info["action"]
        self.posts.append(action)
        refusal = self._refusal(action)
        if action == self.deaf_to:
            self.deaf_to = ""
            if self.heeds and refusal is None:
                getattr(self, action)()
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if refusal is not None:
            return refusal
        if action == "rebuild":
            self.rebuild()
            return web.json_response(building(0), status=202)
        if self.slowly:
            self.under_way = True
            self._due.append(getattr(self, action))
            return web.json_response(self._details(), status=202)
        getattr(self, action)()
        return web.json_response(self._details())

    def _refusal(self, action: str) -> web.Response | None:
        if action == "rebuild" and self.under_way and self.script[0].get("status") != "failed":
            return _problem(409, "rebuilding", "A rebuild of transactions is under way.")
        if action == "promote" and not self.under_way:
            return _problem(409, "not-ready", "No generation of transactions is ready.")
        if action == "discard" and not self.under_way:
            return _problem(404, "not-found", "There is no rebuild of transactions.")
        if action == "rollback" and self.retired is None:
            return _problem(409, "nothing-retired", "No generation of it was live before.")
        return None

    def rebuild(self) -> None:
        """Begin a rebuild."""
        self.under_way = True

    def promote(self) -> None:
        """Make generation 2 live."""
        self.under_way, self.live, self.retired = False, 2, self.live

    def discard(self) -> None:
        """Forget the rebuild."""
        self.under_way = False

    def rollback(self) -> None:
        """Make the retired generation live again, unless there is something about it."""
        self.under_way = False
        if self.retired_error:
            return
        assert self.retired is not None
        self.live, self.retired = self.retired, self.live

    async def _list_quarantine(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != "transactions":
            return web.json_response({"items": [], "next": None})
        positions = [p for p in (30, 17, 5) if p < int(request.query.get("cursor", "99"))]
        page = positions[: int(request.query["limit"])]
        following = str(page[-1]) if len(page) < len(positions) else None
        items = [self._quarantined(position) for position in page]
        return web.json_response({"items": items, "next": following})

    def _quarantined(self, position: int) -> dict[str, Any]:
        return {
            "position": position,
            "stream": "fitbank/66/transaction/TRA1",
            "topic": "UpdatePurchaseClosedLoopStatusMongo",
            "error": "TotalValue must be a decimal number, not null.",
            "quarantined_at": "2026-01-01T12:00:00Z",
        }

    async def _show_quarantined(self, _: web.Request) -> web.Response:
        return web.json_response(self._quarantined(17))

    async def _show_event(self, _: web.Request) -> web.Response:
        headers = [["Host", "localhost"], ["Content-Type", "application/json"]]
        return web.json_response(
            {"position": 17, "provider": "fitbank", "size": 28, "headers": headers}
        )

    async def _show_body(self, _: web.Request) -> web.Response:
        return web.Response(body=b'{"TotalValue": null, ":100:":\x1b]0;"x"}')

    async def _nothing(self, request: web.Request) -> web.Response:
        return _problem(404, "not-found", f"There is no projection {request.match_info['rest']}.")
