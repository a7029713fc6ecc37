"""Image scores through real Snakemake: of a trained classifier and of a measure, each once."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from shardline.files import read_json, read_jsonl
from workflow.workspace import MINI, Workspace

SCORING = {"train_classifier", "score_image_shard", "write_score_manifest"}
CLASSIFIER = {
    "labels": "vase_labels",
    "architecture": "resnet18",
    "image_size": 32,
    "epochs": 5,
    "batch": 16,
}


def picture(path, seed, good):
    """A noisy grey picture, bright if it is good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    low = 150 if good else 20
    noise = np.random.default_rng(seed).integers(low, low + 80, (32, 32, 1), dtype=np.uint8)
    Image.fromarray(np.repeat(noise, 3, axis=2)).save(path)


def configure(workspace, raw, threshold):
    config = copy.deepcopy(MINI)
    for name, format_name, rows in (
        ("vase_labels", "labelled_images", 5000),
        ("vases", "multiview", 5),
    ):
        config["datasets"][name] = {
            "source": f"folder:{raw / name}",
            "format": format_name,
            "licence": "cc0-1.0",
            "shard_rows": rows,
        }
    config["recipes"]["pots"] = {
        "extends": "demo",
        "train": ["vases"],
        "evaluate": [],
        "stages.adapt.train": ["vases"],
        "filters": [{"quality_classifier": {**CLASSIFIER, "threshold": threshold}}, "best_view"],
    }
    config["build"] = ["pots"]
    workspace.write_config(config)


def new_images(workspace, scorer):
    """How many images the last run scored, going by the logs of its shards."""
    (folder,) = workspace.path("results/logs/score_image_shard/vases").glob(f"{scorer}-*")
    lines = [path.read_text().split() for path in sorted(folder.glob("*.log"))]
    return sum(int(words[words.index("them") - 2]) for words in lines)


def decided(workspace):
    """The summary that was written last, and reasons by file name."""
    folders = workspace.path("results/filtered/vases").glob("*")
    folder = max(folders, key=lambda path: (path / "decisions.json").stat().st_mtime)
    lines = [line for path in folder.glob("decisions-*.jsonl") for line in read_jsonl(path)]
    reasons = {line["id"].split(":")[1].split("#")[0]: line["reason"] for line in lines}
    return read_json(folder / "decisions.json"), reasons


@pytest.mark.slow
def test_images_are_scored_once_and_judged_as_often_as_one_likes(tmp_path):
    raw = tmp_path / "raw"
    for number in range(40):
        picture(raw / f"vase_labels/{number % 2}/{number}.png", number, number % 2 == 1)
    for vase, good_views in (("a", (0, 2)), ("b", (1,)), ("c", ())):
        for view in range(3):
            picture(raw / f"vases/{vase}_{view}_x.png", ord(vase) * 10 + view, view in good_views)
    workspace = Workspace.create(tmp_path / "project")
    configure(workspace, raw, 0.5)
    run = workspace.snakemake("data")
    assert run.executed["train_classifier"] == 1
    assert run.executed["score_image_shard"] == 4  # two shards, two scorers
    summary, reasons = decided(workspace)
    low = {name for name, reason in reasons.items() if reason == "low_quality"}
    assert low == {f"{name}_x.png" for name in ("a_1", "b_0", "b_2", "c_0", "c_1", "c_2")}
    assert [entry["rejected"] for entry in summary["filters"]] == [6, 1]
    assert summary["samples"]["kept"] == 2 and summary["groups"]["vanished"] == 1
    assert new_images(workspace, "classifier") == new_images(workspace, "sharpness") == 9
    (manifest,) = workspace.path("results/classifiers").glob("*.json")
    assert read_json(manifest)["measures"]["test"]["accuracy"] == 1.0

    configure(workspace, raw, 0.0)
    run = workspace.snakemake("data")
    assert set(run.executed) >= {"decide_filters", "write_image_shard", "write_filter_manifest"}
    assert not SCORING & set(run.executed) and "convert_dataset" not in run.executed
    assert decided(workspace)[0]["filters"][0]["rejected"] == 0

    configure(workspace, raw, 0.5)
    picture(raw / "vases/a_3_x.png", 77, False)
    run = workspace.snakemake("data")
    assert set(run.executed) >= {"fetch_dataset", "convert_dataset", "score_image_shard"}
    assert "train_classifier" not in run.executed
    assert new_images(workspace, "classifier") == new_images(workspace, "sharpness") == 1
    assert decided(workspace)[1]["a_3_x.png"] == "low_quality"

    picture(raw / "vase_labels/1/more.png", 99, True)
    run = workspace.snakemake("data")
    assert run.executed["train_classifier"] == 1 and run.executed["score_image_shard"] == 2
    assert new_images(workspace, "classifier") == 10
    assert not workspace.snakemake("data").executed

    (model,) = workspace.path("results/classifiers").glob("*/model.safetensors")
    assert verify(workspace) == 0
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    assert verify(workspace) == 1


def verify(workspace) -> int:
    """The exit status of `shardline verify`."""
    program = "from shardline.cli.main import run; run()"
    environment = {**workspace.environment, "PYTHONPATH": str(workspace.path("scripts"))}
    command = [sys.executable, "-c", program, "verify"]
    return subprocess.run(command, cwd=workspace.folder, env=environment, check=False).returncode
