"""A gate that fails stops the run before it costs anything, and says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shardline.files import read_json
from shardline.generators import screens
from workflow.workspace import Workspace

TRAINING = {"layout": "showui", "screens": 12, "seed": 41, "themes": ["aurora"]}
# Another theme: no screen is a near copy by chance.
BENCHMARK = {"layout": "screenspot", "screens": 6, "seed": 42, "themes": ["night"]}


def config(folder: Path) -> dict[str, Any]:
    """The demo's recipe on a folder of training data and a drawn benchmark."""
    common = {"licence": "cc0-1.0"}
    return {
        "datasets": {
            "mine": {
                "source": f"folder:{folder}",
                "format": "showui",
                "frame": "unit_xyxy",
                **common,
            },
            "bench": {
                "source": "generate:screens",
                "source_options": BENCHMARK,
                "format": "screenspot",
                "frame": "pixel_xywh",
                "metric": "point_in_box",
                **common,
            },
        },
        "recipes": {
            "gated": {
                "extends": "demo",
                "train": ["mine"],
                "stages.adapt.train": ["mine"],
                "filters": ["overlap"],
                "evaluate": ["bench"],
            }
        },
        "build": ["gated"],
    }


def size(file: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    with Image.open(file) as image:
        return image.size


def same_size(mine: Path, bench: Path) -> tuple[Path, Path]:
    """A training and a benchmark image of equal size, so that one can pass for the other."""
    files = {size(file): file for file in sorted(bench.rglob("*.png"))}
    for file in sorted(mine.rglob("*.png")):
        if other := files.get(size(file)):
            return file, other
    pytest.fail("no two screens of one size")


def test_a_benchmark_screen_in_the_training_data_stops_the_run(tmp_path: Path) -> None:
    """The run fails and names both files; once the copy is gone it goes on from there."""
    screens.generate(tmp_path / "mine", TRAINING)
    screens.generate(tmp_path / "bench", BENCHMARK)
    image, other = same_size(tmp_path / "mine", tmp_path / "bench")
    drawn = image.read_bytes()
    image.write_bytes(other.read_bytes())
    workspace = Workspace.create(tmp_path / "project")
    workspace.write_config(config(tmp_path / "mine"))

    run = workspace.snakemake("data", check=False)
    assert run.code != 0
    assert (
        "error: mine: overlap: near copies of benchmark images in training dataset mine: 1,"
        in run.output
    )
    benchmark_path = other.relative_to(tmp_path / "bench")
    assert f"images/{image.name} = bench {benchmark_path} (the same file)" in run.output
    assert "overlap: {limit: 1}" in run.output
    assert "Traceback" not in run.output
    assert run.executed["convert_dataset"] == 2 and "decide_filters" not in run.executed
    made = [file for file in workspace.path("results/filtered").rglob("*") if file.is_file()]
    assert not made

    image.write_bytes(drawn)
    run = workspace.snakemake("data")
    assert run.executed["fetch_dataset"] == run.executed["convert_dataset"] == 1
    assert run.executed["decide_filters"] == 1
    (decisions,) = workspace.path("results/filtered/mine").glob("*/decisions.json")
    assert read_json(decisions)["samples"] == {"in": 12, "kept": 12, "rejected": 0}
    assert decisions.with_name("manifest.json").is_file()
    assert "Nothing to be done" in workspace.dry_run("data").output
