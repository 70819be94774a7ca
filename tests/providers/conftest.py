"""The providers as an operator sets them up."""

import pytest

from providers.provider import Provider
from tests.support.reading import configured


@pytest.fixture(scope="session")
def providers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Provider]:
    """The providers as the cases expect them: one business unit of FitBank is known."""
    return configured(
        tmp_path_factory.mktemp("providers"),
        '[fitbank.business_units.66]\ncurrency = "BRL"\ntime_zone = "America/Sao_Paulo"\n',
    )
