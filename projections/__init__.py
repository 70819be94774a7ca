"""The projections. This folder is the registry: a module with a `PROJECTION` is one."""

import importlib
import pkgutil
from typing import Any

from eventstore.fold.projection import Projection


def load_projections() -> dict[str, Projection[Any]]:
    """Every projection, by name."""
    modules = (
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    )
    found: list[Projection[Any]] = [m.PROJECTION for m in modules if hasattr(m, "PROJECTION")]
    return {projection.name: projection for projection in sorted(found, key=lambda p: p.name)}
