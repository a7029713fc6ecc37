"""Deliver what training jobs wrote to MLflow: runs, metrics, scores, reports and model versions.

Started by the Snakefile's hooks beside the jobs, and by hand at any time. Jobs only write journals;
this one process reads them and talks to MLflow, so that training goes on when MLflow is down. What
was delivered is recorded: a killed deliverer repeats nothing, the next one goes on.

Example::

    python scripts/deliver_runs.py --results results --experiment shardline
    python scripts/deliver_runs.py --results results --follow --controller 4711

Reads::

    results/checkpoints/<r>/<s>/work/<key>/{run.json,metrics.jsonl}, checkpoints/<r>/<s>/result.json
    results/models/<r>/<s>/, plans/<r>/, evals/<r>/, reports/<r>/, raw/<d>.lock.json

Writes::

    results/tracking/<store>/state.json; for a local store results/mlflow.db and mlartifacts/
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from shardline.errors import run_program
from shardline.tracking.follow import deliver_once, follow
from shardline.tracking.place import tracking_uri
from shardline.tracking.state import only_deliverer, pending


def main(argv: Sequence[str] | None = None) -> None:
    """Deliver once, or follow the jobs until the controller is gone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument(
        "--uri",
        help="MLflow store; default: MLFLOW_TRACKING_URI, else sqlite:///results/mlflow.db. "
        "Give a URI with a password by the environment: command lines are seen by all users",
    )
    parser.add_argument("--experiment", default="shardline", help="MLflow experiment")
    parser.add_argument(
        "--follow", action="store_true", help="keep delivering until all is delivered"
    )
    parser.add_argument(
        "--controller", type=int, help="process id; with --follow: go on until it is gone"
    )
    arguments = parser.parse_args(argv)
    place = (arguments.results, arguments.uri or tracking_uri(), arguments.experiment)
    if not arguments.follow and not pending(*place):
        return
    with only_deliverer(arguments.results) as alone:
        if not alone:
            print("mlflow: another process delivers already")
        elif arguments.follow:
            if arguments.controller:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.nice(10)
            follow(*place, controller=arguments.controller)
        else:
            deliver_once(*place)


if __name__ == "__main__":
    run_program(main)
