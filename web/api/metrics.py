"""The metrics of this server, for Prometheus."""

from web.access import Access
from web.context import Context
from web.errors import NotReportedError
from web.formats import Negotiated
from web.parameters import NoParameters
from web.route import COMMON_ERRORS, Route


async def show_metrics(
    context: Context, _access: Access, _path: NoParameters, _query: NoParameters
) -> Negotiated:
    """The metrics of all processes of this server, and of its database if that answers.

    As text or as OpenMetrics, whichever `Accept` prefers. The table of all: `docs/operations.md#metrics`.
    """
    return await context.metrics.read()


ROUTES = [
    Route(
        method="GET",
        path="/metrics",
        handler=show_metrics,
        answer=Negotiated,
        media_types=("text/plain", "application/openmetrics-text"),
        errors=(*COMMON_ERRORS, NotReportedError),
        scope="metrics",
    )
]
