"""`shardline mlflow`: MLflow's page on the project's own store."""

from __future__ import annotations

import argparse
import os

from shardline.cli.project import add_config_option
from shardline.errors import UserError

HELP = "show the runs in MLflow's page, on this machine only"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--port", type=int, default=5000, help="default: 5000")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Become MLflow's server; Ctrl-C ends it.

    Raises:
        UserError: the port is taken, there is no store yet, or the store is a server of its own.
    """
    from shardline.cli.project import load_config
    from shardline.tracking.interface import HOST, open_command, open_environment
    from shardline.tracking.place import tracking_uri

    port = arguments.port
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: a port is a number from 1 to 65535")
    command = open_command(tracking_uri(load_config(arguments.configfile).mlflow.uri), port)
    print(f"MLflow is starting: http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
    os.execve(command[0], command, os.environ | open_environment())
