"""Where runs are tracked: addresses of MLflow stores, without opening them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from shardline.files import sha256_bytes
from shardline.redact import redact_text

DEFAULT_URI = "sqlite:///results/mlflow.db"
CONNECT_SECONDS = 5.0


def tracking_uri(configured: str | None = None) -> str:
    """``MLFLOW_TRACKING_URI`` from the environment, else the configured URI, else the default."""
    return os.environ.get("MLFLOW_TRACKING_URI") or configured or DEFAULT_URI


def is_server(uri: str) -> bool:
    """Whether a tracking server, with artefact storage of its own, answers at ``uri``."""
    return urlsplit(uri).scheme in ("http", "https", "databricks") or uri == "databricks"


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI, relative as it is written; None for other stores."""
    scheme, _, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme == "sqlite" else None


def identity(uri: str) -> str:
    """A short name for a store, the same whoever logs in; it tells nothing about the address."""
    return sha256_bytes(redact_text(uri).encode())[:12]


def unreachable(uri: str) -> str | None:
    """Why no connection to a server can be made, in a few words; None if one can."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS):
            return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"no connection to the tracking server ({reason})"
