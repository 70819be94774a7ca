"""Whether this Loopledger works, for load balancers."""

from http import HTTPStatus
from typing import Literal

import msgspec

from eventstore.errors import UnavailableError
from web.context import Context
from web.errors import BadParameterError
from web.parameters import NoParameters
from web.route import Route, WithStatus


class Health(msgspec.Struct, frozen=True):
    """The process answers, as `status` says."""

    status: Literal["ok"]


class ReadinessStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether deliveries can be taken and every projection follows the log: `status`.

    If not, `problems` says what is wrong, by `postgres`, `log` or the name of a projection.
    """

    status: Literal["ready", "not ready"]
    problems: dict[str, str] = {}


async def healthz(_: Context, _path: NoParameters, _query: NoParameters) -> Health:
    """Whether the process answers."""
    return Health("ok")


async def readyz(
    context: Context, _path: NoParameters, _query: NoParameters
) -> ReadinessStatus | WithStatus:
    """Whether deliveries can be taken and every projection follows the log; 503 if not."""
    problems = await context.readiness.find_problems()
    if refusal := context.appender.refusal:
        problems["log"] = refusal
    if problems:
        answer = ReadinessStatus("not ready", problems)
        return WithStatus(HTTPStatus.SERVICE_UNAVAILABLE, answer)
    return ReadinessStatus("ready")


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
]
