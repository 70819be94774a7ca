"""Whether this Loopledger works, for load balancers."""

from http import HTTPStatus
from typing import Literal

import msgspec

from eventstore.errors import UnavailableError
from web.access import Access
from web.context import Context
from web.errors import BadParameterError
from web.parameters import NoParameters
from web.route import Answer, Route

# What a Loopledger calls itself.
SERVER_NAME = "loopledger"


class Health(msgspec.Struct, frozen=True):
    """The process answers, as `status` says. By `server` whoever asks knows that it is a Loopledger."""

    status: Literal["ok"]
    server: str


class ReadinessStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether deliveries can be taken: `status`. If not, `problems` says what is wrong, by `postgres` or `log`."""

    status: Literal["ready", "not ready"]
    problems: dict[str, str] = {}


class ProjectionsHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether every projection follows the log: `status`. If not, `problems` says what is wrong, by projection.

    By `log` it says that an event is missing from the log, wherever.
    """

    status: Literal["ok", "held up"]
    problems: dict[str, str] = {}


async def healthz(_: Context, _access: Access, _path: NoParameters, _query: NoParameters) -> Health:
    """Whether the process answers."""
    return Health("ok", SERVER_NAME)


async def readyz(
    context: Context, _access: Access, _path: NoParameters, _query: NoParameters
) -> ReadinessStatus | Answer:
    """Whether deliveries can be taken; 503 if not.

    How the projections are is no matter here.
    """
    appender = context.appender
    problems = await context.readiness.find_problems(appender.known_head)
    if reason := appender.refusal or appender.outage:
        problems.setdefault("log", reason)
    if problems:
        answer = ReadinessStatus("not ready", problems)
        return Answer(answer, HTTPStatus.SERVICE_UNAVAILABLE)
    return ReadinessStatus("ready")


async def projections_healthz(
    context: Context, _access: Access, _path: NoParameters, _query: NoParameters
) -> ProjectionsHealth | Answer:
    """Whether every projection follows the log; 503 if not.

    Under `log`, that an event is missing from the log, or that its recorded times are ahead of the clock.
    """
    problems = await context.readiness.find_held_up()
    if problems:
        answer = ProjectionsHealth("held up", problems)
        return Answer(answer, HTTPStatus.SERVICE_UNAVAILABLE)
    return ProjectionsHealth("ok")


ROUTES = [
    Route(
        method="GET",
        path="/healthz",
        handler=healthz,
        answer=Health,
        errors=(BadParameterError,),
        scope="health",
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        answer=ReadinessStatus,
        statuses=(HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE),
        errors=(BadParameterError, UnavailableError),
        scope="health",
    ),
    Route(
        method="GET",
        path="/healthz/projections",
        handler=projections_healthz,
        answer=ProjectionsHealth,
        statuses=(HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE),
        errors=(BadParameterError, UnavailableError),
        scope="health",
    ),
]
