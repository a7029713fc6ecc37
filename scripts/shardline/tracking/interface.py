"""Opening MLflow's own pages."""

from __future__ import annotations

import socket
import sys

from shardline.errors import UserError
from shardline.tracking.place import is_server, sqlite_file

HOST = "127.0.0.1"
DEFAULT_PORT = 5000


def port_is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen at ``host:port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def next_free_port(start: int, host: str = HOST) -> int | None:
    """The first port from ``start`` on where a server could listen; None if there is none."""
    return next((port for port in range(start, 65536) if port_is_free(port, host)), None)


def open_environment() -> dict[str, str]:
    """What to add to the environment of `open_command`: no telemetry, no ten job workers."""
    return {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def open_command(uri: str, port: int = DEFAULT_PORT) -> list[str]:
    """The command that serves the pages of a local store at ``http://127.0.0.1:<port>``.

    Raises:
        UserError: the port is taken, nothing was tracked yet, or a server shows its pages itself.
    """
    if is_server(uri):
        raise UserError("runs are tracked on a server: open its address in a browser")
    database = sqlite_file(uri)
    if database is not None and not database.is_file():
        raise UserError(f"{database}: no such file: nothing was tracked yet; train a recipe first")
    if not port_is_free(port):
        raise UserError(
            f"port {port} of {HOST} is taken, perhaps by another MLflow: open "
            f"http://{HOST}:{port}, or choose a free port: --port {next_free_port(port + 1)}"
        )
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    return [*command, "--host", HOST, "--port", str(port), "--workers", "1"]
