"""The providers. This folder is the registry: a module with `NAME`, `Settings` and `provider()` is a provider."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import msgspec

from providers.provider import Provider


def _modules() -> dict[str, Any]:
    found = (
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    )
    return {module.NAME: module for module in found if hasattr(module, "NAME")}


def settings_types() -> dict[str, type[msgspec.Struct]]:
    """The type of each provider's section of the settings, by the provider's name."""
    return {name: module.Settings for name, module in _modules().items()}


def load_providers(settings: Mapping[str, msgspec.Struct]) -> dict[str, Provider]:
    """Make every provider, by name, with its own settings or the defaults."""
    return {
        name: module.provider(settings.get(name) or module.Settings())
        for name, module in _modules().items()
    }
