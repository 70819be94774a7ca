"""The log's parts, wired as in a server."""

from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.head import Head
from eventstore.log.reader import Reader
from eventstore.postgres.database import Database


class Log:
    """One process's appender, reader and head."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self.head = Head(database, limits)
        self.reader = Reader(database, limits)
        self.appender = Appender(database.connect, limits, self.head.on_append)

    async def start(self, *, append: bool = True, follow: bool = True) -> None:
        """Begin to append, and to follow what others append."""
        await self.head.start(notify=append, follow=follow)
        if append:
            await self.appender.start()

    async def stop(self) -> None:
        """Drain the append queue and stop."""
        await self.appender.stop()
        await self.head.stop()
