"""How long Snakemake takes over a finished project of 20 million samples: 2,000 shards a stage.

A small dataset goes through the real stages up to its plan. Its shards are then multiplied by name,
without their content, as are Snakemake's records of them, and a run that finds nothing to do is
timed: reading rules and manifests, building the graph, judging every job.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
import yaml

from shardline.files import read_json, write_json

SHARDS = 2000
ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "scripts", "config", "profiles", "envs")
CONFIG = {
    "datasets": {
        "large": {
            **{
                "source": "generate:screens",
                "source_options": {
                    "screens": 8,
                    "layout": "showui",
                    "seed": 1,
                    "themes": ["night"],
                },
            },
            **{"format": "showui", "frame": "unit_xyxy", "licence": "cc0-1.0"},
        }
    },
    "recipes": {
        "large": {
            "family": "qwen2_vl",
            "base": "init:config/models/tiny_qwen2_vl.json",
            "train": ["large"],
            "filters": ["dedup"],
            "tokens": {"task": "grounding"},
            "stages": [
                {
                    **{"name": "sft", "tune": {"llm": {"full": True, "lr": 1e-3}}, "steps": 1},
                    **{"global_batch": {"samples": 1}, "max_length": 4096},
                }
            ],
        }
    },
    "build": ["large"],
}
FIRST = "00000-"  # how the shard that is there is named
FOLDERS = ("converted/large", "filtered/large/*", "tokens/large/*")


def measure(shards: int = SHARDS) -> dict[str, float]:
    """Jobs in the graph, seconds and memory (MB) of a run that finds nothing to do."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in PARTS:
            if (ROOT / part).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / part, folder / part, ignore=ignored)
            else:
                shutil.copy2(ROOT / part, folder / part)
        (folder / "large.yaml").write_text(yaml.safe_dump(CONFIG))
        _snakemake(folder)
        multiply(folder / "results", shards)
        multiply_records(folder / ".snakemake/metadata", shards)
        _snakemake(folder, "--touch")  # what reads the longer lists
        _snakemake(folder, "--dry-run")  # reads all into the page cache
        begin = time.perf_counter()
        said, peak = _snakemake(folder, "--dry-run")
        seconds = time.perf_counter() - begin
        if "Nothing to be done" not in said or "missing provenance" in said:
            raise SystemExit(f"dag: there is something to do:\n{said[-4000:]}")
    return {
        "dag_20m.shards_a_stage": shards,
        "dag_20m.seconds": round(seconds, 1),
        "dag_20m.peak_mb": round(peak / 1e6),
    }


def multiply(results: Path, shards: int) -> None:
    """Give each stage so many shards: names in its lists, and empty files."""
    for folder in (path for pattern in FOLDERS for path in results.glob(pattern)):
        for file in sorted(folder.glob(f"*{FIRST}*")):
            for number in range(1, shards):
                file.with_name(file.name.replace(FIRST, f"{number:05}-")).touch()
        for listed in folder.glob("*.json"):
            content = read_json(listed)
            if isinstance(content, dict) and (entries := content.get("shards")):
                content["shards"] = [_named(entries[0], number) for number in range(shards)]
                write_json(listed, content)


def multiply_records(folder: Path, shards: int) -> None:
    """Give each shard the record of the first one, with its own number."""
    for record in sorted(folder.iterdir()):
        path = b64decode(record.name).decode()
        if FIRST in path:
            content = record.read_text()
            for number in range(1, shards):
                name = b64encode(path.replace(FIRST, f"{number:05}-").encode()).decode()
                record.with_name(name).write_text(content.replace(FIRST, f"{number:05}-"))


def _named(entry: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        key: value.replace(FIRST, f"{number:05}-") if key in ("name", "shard", "index") else value
        for key, value in entry.items()
    }


def _snakemake(folder: Path, *words: str) -> tuple[str, int]:
    """What Snakemake says over the target ``plans``, and the most bytes that it had."""
    log = folder / "log.txt"
    command = [
        *(sys.executable, "-m", "snakemake", "--profile", "profiles/local", *words, "plans"),
        *("--configfile", "large.yaml"),
    ]
    with open(log, "wb") as file:
        code, peak = figures.run(command, cwd=folder, stdout=file, stderr=file)
    said = log.read_text()
    if code:
        raise SystemExit(f"dag: snakemake {' '.join(words)} failed:\n{said[-4000:]}")
    return said, peak


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=SHARDS)
    print(json.dumps(measure(parser.parse_args(argv).shards), indent=2))


if __name__ == "__main__":
    main()
