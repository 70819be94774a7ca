"""Where the embedded Postgres keeps its data by default: one place, whatever the current directory is.

Earlier versions used `./data`. A store there is still used; if there are two stores, neither is chosen.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import platformdirs

from eventstore.errors import LoopledgerError
from runtime.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


class TwoStoresError(LoopledgerError):
    """There are two stores, {first} and {second}. Set LOOPLEDGER_DATA_DIR to the one that you mean."""


def data_directory(chosen: Path | None) -> Path:
    """The data directory as an absolute path: the chosen one, or else the default. Raises TwoStoresError."""
    if chosen is not None:
        return chosen.absolute()
    return existing_store([default_directory(), Path("data").absolute(), ROOT / "data"])


def own_directory(settings: Settings) -> Path:
    """Where a server keeps what is no part of its database, wherever that is. Raises TwoStoresError."""
    if settings.database_url is None:
        return data_directory(settings.data_dir)
    # Beside another database's data there may be two stores, and neither is meant.
    return (settings.data_dir or default_directory()).absolute()


def default_directory() -> Path:
    """The default place: on Linux ~/.local/share/loopledger, for root /var/lib/loopledger.

    Root's own home is closed to the user that Postgres runs as.
    """
    if os.geteuid() == 0:
        return platformdirs.site_state_path("loopledger", appauthor=False)
    return platformdirs.user_data_path("loopledger", appauthor=False)


def existing_store(places: Iterable[Path]) -> Path:
    """The one of these directories that holds a store, or the first if none does. Raises TwoStoresError."""
    first, *others = dict.fromkeys(place.resolve() for place in places)
    stores = [place for place in (first, *others) if _is_store(place)]
    if len(stores) > 1:
        raise TwoStoresError(first=stores[0], second=stores[1])
    return stores[0] if stores else first


def _is_store(place: Path) -> bool:
    """Whether Loopledger created this directory; a `postgres` alone may be somebody else's."""
    with suppress(PermissionError):
        return (place / "lock").is_file() and (place / "postgres").is_dir()
    return False
