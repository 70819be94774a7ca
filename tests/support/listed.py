"""What lists hold, read without a server."""

import msgspec

from eventstore.postgres.database import Database
from eventstore.query.listing import ListReader, Question
from eventstore.query.records import REJECTIONS
from eventstore.query.visibility import Visibility
from eventstore.rejections import Rejection


async def listed_rejections(database: Database) -> list[Rejection]:
    """The rejections on record, the newest first."""
    page = await ListReader(database).page(REJECTIONS, Question(), Visibility(), limit=1_000)
    return [msgspec.json.decode(item, type=Rejection) for item in page.items]
