"""What of the store an answer may show."""

import msgspec


class Visibility(msgspec.Struct, frozen=True):
    """Whose things an answer may show: those of `merchants`, None for all. Secrets are masked unless `revealed`."""

    merchants: tuple[str, ...] | None = None
    revealed: bool = False

    def includes(self, merchant_id: str) -> bool:
        """Say whether a merchant's things may be shown."""
        return self.merchants is None or merchant_id in self.merchants
