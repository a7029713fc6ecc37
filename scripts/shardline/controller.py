"""What happens around a Snakemake run: opening the project, stale locks, tracking.

Only the Snakefile and `shardline gc` import this module.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shardline.config.layers import Layer, load, project_layers, read_layer
from shardline.config.project import Project
from shardline.errors import ConfigError, UserError
from shardline.paths import RESULTS
from shardline.tracking.place import tracking_uri
from shardline.tracking.state import pending

RECORDS = Path(".snakemake")
HOST = RECORDS / "shardline-host"
TRACKING_LOG = Path(RESULTS) / "logs" / "deliver_runs.log"
DELIVERY_SECONDS = 60


def open_project(workflow: Any) -> Project:
    """Load the config with the user's layers and check the state of the working directory.

    A user error ends Snakemake here, with the message alone.
    """
    try:
        check_records()
        settings = workflow.config_settings
        layers = project_layers(Path(workflow.basedir))
        layers += [read_layer(Path(os.path.relpath(file))) for file in settings.configfiles]
        layers += [Layer("--config", checked_command_line(dict(settings.config)))]
        project = Project(load(layers), Path(workflow.basedir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if workflow.is_main_process:
        release_stale_lock()
    use_own_python()
    return project


def use_own_python() -> None:
    """Make a job's ``python`` the one that runs Snakemake, activated or not."""
    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


def checked_command_line(values: dict[str, Any]) -> dict[str, Any]:
    """``--config`` values: top-level names and lists only.

    Raises:
        ConfigError: a nested value, since Snakemake reads nested numbers as text.
    """
    for key, value in values.items():
        if isinstance(value, dict):
            raise ConfigError(
                f"--config: {key} is a section, and Snakemake reads nested numbers as text; "
                "put it into a YAML file and give that with --configfile"
            )
    return values


def check_records() -> None:
    """Refuse results whose Snakemake records are gone: changes could not be seen any more.

    Raises:
        UserError: there are results, but no ``.snakemake/metadata``, nor the mark of a job that
            was killed before the first record.
    """
    kept = any(any((RECORDS / kind).glob("*")) for kind in ("metadata", "incomplete"))
    if any(Path(RESULTS).glob("raw/*.lock.json")) and not kept:
        raise UserError(
            "results/ holds artefacts, but their records (.snakemake/metadata) are missing, so "
            "changed parameters could not be seen; copy .snakemake along with results/, or move "
            "results/ away to start anew"
        )


def release_stale_lock() -> None:
    """Remove Snakemake's lock if the run that took it is dead and ran on this host."""
    locks = list((RECORDS / "locks").glob("*.lock"))
    if not locks or (HOST.is_file() and HOST.read_text() != socket.gethostname()):
        return
    if not other_controllers():
        for lock in locks:
            lock.unlink(missing_ok=True)
        print("released the lock of a run that is no longer alive", file=sys.stderr)


def other_controllers() -> list[int]:
    """Process ids of other Snakemake runs in this directory."""
    own = {os.getpid(), os.getppid()}
    here = Path.cwd()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if int(process.name) in own or not any(
                word == b"snakemake" or word.endswith(b"/snakemake") for word in words
            ):
                continue
            if (process / "cwd").resolve(strict=True) == here:
                found.append(int(process.name))
        except OSError:
            continue
    return found


class Delivery:
    """The process that delivers the jobs' journals to MLflow while a run goes on."""

    def __init__(self, project: Project) -> None:
        self._program = str(project.root / "scripts" / "deliver_runs.py")
        self._uri = tracking_uri(project.config.mlflow.uri)
        self._experiment = project.config.mlflow.experiment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it beside the run; it outlives a killed controller and then finishes its work."""
        HOST.write_text(socket.gethostname())
        TRACKING_LOG.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, self._program, "--results", RESULTS]
        command += ["--experiment", self._experiment]
        command += ["--follow", "--controller", str(os.getpid())]
        with open(TRACKING_LOG, "ab") as log:
            self._process = subprocess.Popen(
                command,
                # A URI may hold a password, and every user sees command lines.
                env={**os.environ, "MLFLOW_TRACKING_URI": self._uri},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self) -> None:
        """Wait until all is delivered; a store that is down is named and never fails the run."""
        end = time.monotonic() + DELIVERY_SECONDS
        while pending(Path(RESULTS), self._uri, self._experiment):
            if time.monotonic() > end or (self._process and self._process.poll() is not None):
                print(
                    f"MLflow: not everything is delivered (see {TRACKING_LOG}); "
                    "the next run delivers the rest",
                    file=sys.stderr,
                )
                return
            time.sleep(0.5)
