"""What of a training can be refused before any process of it starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardline.errors import ConfigError
from shardline.files import read_json
from shardline.hardware import Hardware, forwards
from shardline.training.schedule import learning_rate_factor
from shardline.training.tuning import kind
from shardline.training.zero_config import deepspeed_config


def check_before(options: Mapping[str, Any], plan: Path, hardware: Hardware) -> None:
    """See that options, plan and preset fit each other.

    Raises:
        ConfigError: they do not; the ranks, which check the same, would each say so.
    """
    summary = read_json(plan)
    kind(options["tune"])
    check_media(options["tune"], summary)
    learning_rate_factor(options["schedule"], summary["steps"])
    counts = forwards(hardware, summary["max_packs_per_step"], plan.as_posix())
    deepspeed_config(hardware, options, *counts)


def check_media(tune: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """See that what only media train has any.

    Raises:
        ConfigError: the plan has no picture and no video, and the projector or the tower is tuned.
    """
    for module in ("projector", "vision"):
        if tune[module]["mode"] != "frozen" and not summary["patches"]:
            raise ConfigError(
                f"tune.{module}.mode: {tune[module]['mode']!r}, but no sample of the plan has a "
                "picture or a video, so that nothing would train it; allowed: frozen"
            )
