"""Reading secrets from where the settings say that they are."""

import os
from pathlib import Path

from eventstore.errors import SettingsError
from verification.keyring import Secret


def read_secret(secret: Secret) -> bytes:
    """Read a secret from the environment or a file. Raises SettingsError, without the secret."""
    try:
        if secret.env is not None:
            return os.environb[secret.env.encode()]
        return Path(secret.file or "").read_bytes()
    except KeyError:
        problem = "is not set"
    except OSError as error:
        problem = error.strerror or type(error).__name__
    raise SettingsError(key="a secret of the verification", problem=problem, source=secret.source)
