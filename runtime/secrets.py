"""Reading secrets from where the settings say that they are."""

import os
from pathlib import Path

from verification.keyring import MalformedSecretError, Secret


def read_secret(secret: Secret) -> bytes:
    """Read a secret from the environment or a file. Raises MalformedSecretError, without the secret."""
    try:
        if secret.env is not None:
            return os.environb[secret.env.encode()]
        return Path(secret.file or "").read_bytes()
    except KeyError:
        message = "is not set; set this variable for the server"
    except FileNotFoundError:
        message = "does not exist; write the secret to this file"
    except OSError as error:
        message = f"cannot be read: {error.strerror or type(error).__name__}"
    raise MalformedSecretError(message)
