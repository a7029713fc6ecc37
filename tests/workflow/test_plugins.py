"""A format and a metric from one file of the user's own, through real Snakemake."""

from __future__ import annotations

import copy

from PIL import Image

from shardline.files import read_json
from workflow.workspace import MINI

PLUGIN = '''
import csv

from shardline.rows import Element, Row
from shardline.samples import Medium


class Csv:
    """Rows of ``boxes.csv``: image, label, left, top, right, bottom in pixels."""

    DEFAULTS = {}
    FRAMES = ("pixel_xyxy",)

    @staticmethod
    def read(raw, options):
        with (raw / "boxes.csv").open(newline="") as file:
            for index, (image, label, *box) in enumerate(csv.reader(file)):
                numbers = [float(value) for value in box]
                medium = Medium(kind="image", path=image, width=0, height=0, sha256="")
                yield Row(
                    file="boxes.csv",
                    index=index,
                    media=[medium],
                    elements=[Element(label=label, box=numbers)],
                )


class Answered:
    """The share of questions that got an answer of more than ``SHORT`` characters."""

    SHORT = 0

    @classmethod
    def score(cls, predictions, samples, options):
        items = [
            {"item": row["item"], "hit": len(row["answer"]) > cls.SHORT, "answer": row["answer"]}
            for row in predictions
        ]
        share = sum(item["hit"] for item in items) / len(items)
        return {"accuracy": share, "n": len(items), "low": 0.0, "high": 1.0}, items


shardline_formats = {"csv_boxes": Csv}
shardline_metrics = {"answered": Answered}
'''
SCORES = "results/evals/plugged/base/my_boxes/scores.json"


def test_a_format_and_a_metric_from_one_file(clone, tmp_path):
    """They are used, a row without an image is a reject, and a changed metric rescores alone."""
    raw = tmp_path / "raw"
    raw.mkdir()
    Image.new("RGB", (140, 140), "navy").save(raw / "a.png")
    rows = ("a.png,Save,10,10,40,40", "a.png,Mail,50,50,80,80", "gone.png,Buy,1,1,9,9")
    (raw / "boxes.csv").write_text("\n".join(rows) + "\n")
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    config = copy.deepcopy(MINI)
    config["plugins"] = [str(plugin)]
    config["datasets"]["my_boxes"] = {
        "source": f"folder:{raw}",
        "format": "csv_boxes",
        "frame": "pixel_xyxy",
        "licence": "cc0-1.0",
        "metric": "answered",
        "max_reject_share": 0.5,
    }
    config["recipes"]["plugged"] = {"extends": "mini", "evaluate": ["my_boxes"]}
    config["build"] = ["mini", "plugged"]
    clone.write_config(config)
    run = clone.snakemake(SCORES)
    assert set(run.executed) == {
        "fetch_dataset",
        "convert_dataset",
        "predict_benchmark",
        "score_predictions",
    }
    manifest = read_json(clone.path("results/converted/my_boxes/manifest.json"))
    assert manifest["reasons"] == {"missing_image": 1}
    scores = read_json(clone.path(SCORES))
    assert scores["n"] == 2 and scores["accuracy"] == 1.0

    plugin.write_text(PLUGIN.replace("SHORT = 0", "SHORT = 10_000"))
    run = clone.snakemake(SCORES)
    assert set(run.executed) >= {"score_predictions"}
    assert "predict_benchmark" not in run.executed
    assert read_json(clone.path(SCORES))["accuracy"] == 0.0
