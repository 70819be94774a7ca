"""What every state holds, whatever it is the state of."""

from datetime import datetime
from typing import Annotated

import msgspec

from eventstore.fold.columns import HIDDEN


class Tracked(msgspec.Struct, frozen=True):
    """What every state holds: whose thing it is, and its times (the provider's own).

    `provider` tells of it, it belongs to the program `program_id` of `merchant_id`, and `id` is the provider's own.
    `created_at` is when the thing was, `updated_at` is the newest provider's time applied; `deleted_at` is set while
    the thing is deleted.
    """

    provider: str
    merchant_id: str
    program_id: str | None
    id: str
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    # The time that the newest fact counts at, if not `updated_at`; and what Merger needs for facts that come late.
    effective_at: Annotated[datetime | None, HIDDEN] = None
    merge: Annotated[str | None, HIDDEN] = None


# The fields of which the first that is not null is the time that the newest fact counts at.
EFFECTIVE_AT = ("effective_at", "updated_at")
