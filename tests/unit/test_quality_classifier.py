"""The quality classifier: what it learns, the scores it gives, and the filter by them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import resnet18

from classifiers import labelled, score, train, untrained, vase
from filtered import sample
from project_root import ROOT
from raw_datasets import lock_and_convert, save
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.decisions import Context
from shardline.errors import ConfigError
from shardline.filters import quality_classifier
from shardline.samples import Medium


def test_it_learns_and_reports_what_it_gets_right_and_wrong(tmp_path):
    results = labelled(tmp_path, 24, 36)
    report = train(tmp_path, epochs=6)
    assert report["images"] == {"0": 24, "1": 36}
    assert report["contents"] == {
        "train": {"bad": 20, "good": 28},
        "validation": {"bad": 2, "good": 4},
        "test": {"bad": 2, "good": 4},
    }
    assert report["weights"] == "random" and report["notes"] == []
    assert report["class_weights"] == pytest.approx({"bad": 48 / 40, "good": 48 / 56})
    for part in ("train", "validation", "test"):
        found = report["measures"][part]
        assert found["accuracy"] > 0.9 and found["f1"] > 0.9 and found["average_precision"] > 0.9
        assert np.sum(found["confusion"]) == found["images"]
        assert [sum(row) for row in found["confusion"]] == [
            report["contents"][part][kind] for kind in ("bad", "good")
        ]
    curves = report["curves"]
    assert [line["epoch"] for line in curves] == list(range(1, 7))
    assert curves[-1]["train_loss"] < curves[0]["train_loss"]
    losses = [line["validation_loss"] for line in curves]
    assert report["best_epoch"] == 1 + losses.index(min(losses))
    assert not list((results / "classifiers").glob(".*.unfinished"))

    for number in range(6):
        save(vase(5000 + number, number % 2 == 1), tmp_path / f"vases/{number}.png")
    plain = {"classes": False}
    lock_and_convert(
        results, "vases", tmp_path / "vases", "labelled_images", None, format_options=plain
    )
    made, scores = score(tmp_path, "vases")
    assert made["device"] == "cpu" and "torchvision" in made["versions"]
    assert {int(path[0]): value >= 0.5 for path, value in scores.items()} == {
        number: number % 2 == 1 for number in range(6)
    }
    model = resnet18(num_classes=2)
    model.fc = torch.nn.Sequential(
        torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Dropout(),
        torch.nn.Linear(512, 256), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(256, 2),
    )  # fmt: skip
    model.load_state_dict(load_file(results / "classifiers/c/model.safetensors"))
    model.eval()
    for path, value in scores.items():
        image = Image.open(tmp_path / "vases" / path).resize((32, 32), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        with torch.inference_mode():
            output = model(torch.tensor(pixels.transpose(2, 0, 1)[None]).float())
        assert value == pytest.approx(output.softmax(1)[0, 1].item(), abs=1e-5)


def test_scores_are_the_same_bits_alone_and_among_others_and_on_two_processes(tmp_path):
    results = labelled(tmp_path, 9, 11)
    untrained(tmp_path, 0)
    _, together = score(tmp_path, "labels")
    output = results / "scores/labels/c/scores-00000.jsonl"
    first = output.read_bytes()
    shutil.rmtree(output.parent)
    score(tmp_path, "labels", threads=2)
    assert output.read_bytes() == first
    shutil.copytree(tmp_path / "labels/1", tmp_path / "few/1")
    for file in sorted((tmp_path / "few/1").iterdir())[:-3]:
        file.unlink()
    lock_and_convert(results, "few", tmp_path / "few", "labelled_images", None)
    _, alone = score(tmp_path, "few")
    assert alone and alone == {path: together[path] for path in alone}


def test_what_is_known_is_scored_again_only_after_a_change_of_the_model_or_the_code(
    tmp_path, capfd
):
    results = labelled(tmp_path, 6, 6)
    untrained(tmp_path, 0)
    news = []
    for change in ("", "", "image", "code", "model"):
        if change == "image":
            save(vase(99, True), tmp_path / "labels/0/new.png")
            lock_and_convert(results, "labels", tmp_path / "labels", "labelled_images", None)
        if change == "model":
            untrained(tmp_path, 1)
        capfd.readouterr()
        _, scores = score(tmp_path, "labels", code="1" if change != "code" else "2")
        news.append(int(capfd.readouterr().err.split(" images, ")[1].split()[0]))
    assert news == [12, 0, 1, 13, 13] and len(scores) == 13


def filtered(scores, threshold=0.5):
    """Judge a sample for each tuple of its images' scores."""
    samples, known = [], {}
    for number, values in enumerate(scores):
        media = []
        for place, value in enumerate(values):
            name = f"{number}-{place}"
            media.append(Medium(kind="image", path=f"{name}.png", sha256=name))
            known[name] = {"score": value}
        samples.append(sample(number, media=media))
    context = Context(
        dataset="d", options={**quality_classifier.DEFAULTS, "threshold": threshold}, earlier=[],
        benchmarks=[], raw=ROOT, load=lambda _: [], phashes=lambda _: {}, scores=known,
    )  # fmt: skip
    return quality_classifier.judge(samples, context)


def test_the_threshold_decides_and_the_worst_image_of_a_sample():
    verdict = filtered([(0.5,), (0.49,), (0.9, 0.2), (), (0.9, 1.0)])
    rejected = {name[-1]: (made.reason, made.detail) for name, made in verdict.rejected.items()}
    assert rejected == {
        "1": ("low_quality", {"score": 0.49, "image": "1-0.png"}),
        "2": ("low_quality", {"score": 0.2, "image": "2-1.png"}),
    }
    figures = verdict.figures
    assert figures["images"] == {"good": 4, "bad": 2} and figures["samples_without_images"] == 1
    assert figures["confidence"]["min"] == 0.2 and figures["confidence"]["max"] == 1.0
    assert figures["confidence"]["mean"] == pytest.approx(3.99 / 6)
    assert set(figures["confidence"]["percentiles"]) == {"10", "25", "50", "75", "90"}
    counts = figures["histogram"]["counts"]
    assert (len(counts), sum(counts), counts[-1], counts[4]) == (20, 6, 1, 1)
    assert len(filtered([(0.5,), (0.49,), (0.9, 0.2)], threshold=0.0).rejected) == 0
    assert filtered([]).figures["confidence"]["mean"] is None


def project(**options):
    recipe = {"extends": "demo", "filters": [{"quality_classifier": options}]}
    datasets = {
        "labels": {
            "source": "folder:/data/labels", "format": "labelled_images", "licence": "mit",
        }
    }  # fmt: skip
    layer = Layer(
        "mine.yaml", {"build": ["mine"], "recipes": {"mine": recipe}, "datasets": datasets}
    )
    return Project(load([*project_layers(ROOT), layer]), ROOT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "labels: no such dataset: ''"),
        ({"labels": "label"}, "no such dataset: 'label'"),
        ({"labels": "labels", "threshold": 1.5}, "threshold: 1.5; allowed: a number from 0 to 1"),
        ({"labels": "labels", "architecture": "vgg"}, "architecture: 'vgg'; allowed: resnet18"),
        ({"labels": "labels", "batch": 1}, "batch: 1; allowed: a whole number from 4"),
        ({"labels": "labels", "weights": "imagenet"}, "weights = 'imagenet'; allowed: hub://"),
        ({"labels": "labels", "weights": 3}, "weights: 3; allowed: a model's source"),
        ({"labels": "labels", "learning_rate": 7.0}, "learning_rate: 7.0; allowed"),
    ],
)
def test_options_are_checked_before_any_run(options, message):
    with pytest.raises(ConfigError) as caught:
        project(**options)
    assert "recipes.mine" in str(caught.value) and message in str(caught.value)


def test_the_threshold_is_no_option_of_the_scores():
    weights = "hub://timm/resnet50.tv_in1k@0123abc"
    one, other = (
        project(labels="labels", threshold=value, weights=weights) for value in (0.2, 0.8)
    )
    assert one.scorers == other.scorers and one.decide.keys() != other.decide.keys()
    (scores,) = one.scorers
    assert one.labels_of == {scores: "labels"} and (scores,) in one.train_classifier
    assert one.source_models.fetch[one.model_of["scores", scores],] == {"source": weights}
    assert ("labels",) in one.convert
