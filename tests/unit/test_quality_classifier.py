"""The quality classifier: labelled folders, training, scores and the filter."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import time
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18

import score_image_shard
import train_classifier
from filtered import sample
from project_root import ROOT
from raw_datasets import check_sums, command_line, lock_and_convert, rejects_of, samples_of, save
from shardline.classifier.labelled import Labelled, read_labelled, split
from shardline.classifier.measures import measure
from shardline.classifier.network import build, save_model
from shardline.classifier.options import DEFAULTS
from shardline.classifier.pixels import augmented, square
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.decisions import Context
from shardline.errors import ConfigError, DataError
from shardline.files import read_json, read_jsonl, sha256_file, write_json
from shardline.filters import quality_classifier
from shardline.samples import Medium

SMALL = {"labels": "labels", "architecture": "resnet18", "image_size": 32, "batch": 16}


def vase(seed: int, good: bool, side: int = 40) -> Image.Image:
    """A noisy picture: a bright disc is good, a dark one is not."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    disc = (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2
    grey = random.integers(60, 120, (side, side, 3))
    grey[disc] += 120 if good else -50
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def labelled(tmp_path, bad: int, good: int, name: str = "labels", **options):
    """A converted dataset of drawn vases; returns the folder of results."""
    for label, count in enumerate((bad, good)):
        for number in range(count):
            file = tmp_path / name / str(label) / f"{number:03}.png"
            save(vase(1000 * label + number, bool(label)), file)
    results = tmp_path / "results"
    lock_and_convert(results, name, tmp_path / name, "labelled_images", None, **options)
    return results


def hardware(tmp_path, **values):
    file = tmp_path / f"preset-{'-'.join(map(str, values.values()))}.yaml"
    write_json(file, values)
    return file


def arguments(
    tmp_path, place="c", threads=1, workers=0, checkpoint_every=1000, weights="", **options
):
    """The command line of a training of tmp_path/results/classifiers/<place>."""
    results = tmp_path / "results"
    chosen = {**DEFAULTS, **SMALL, **options}
    return command_line(
        options=json.dumps({"scorer": "classifier", "scorer_options": chosen}),
        converted=results / "converted" / chosen["labels"] / "manifest.json",
        raw=results / "raw" / chosen["labels"],
        weights=weights,
        code="abc",
        folder=results / "classifiers" / place,
        manifest=results / f"classifiers/{place}.json",
        hardware=hardware(tmp_path, workers=workers, checkpoint_every=checkpoint_every),
        threads=threads,
    )


def train(tmp_path, **options):
    train_classifier.main(arguments(tmp_path, **options))
    return read_json(tmp_path / f"results/classifiers/{options.get('place', 'c')}.json")


def untrained(tmp_path, seed):
    """A classifier of random weights at tmp_path/results/classifiers/c."""
    torch.manual_seed(seed)
    folder = tmp_path / "results/classifiers/c"
    config = {"architecture": "resnet18", "image_size": 32}
    save_model(folder, config, build("resnet18").state_dict())
    write_json(folder.with_suffix(".json"), {"sha256": sha256_file(folder / "model.safetensors")})


def score(tmp_path, name, threads=1, code="1", model="c", block="00000"):
    """Score a converted shard; what made the scores, and the score of each image's path."""
    results = tmp_path / "results"
    output = results / f"scores/{name}/{model}/scores-{block}.jsonl"
    score_image_shard.main(
        [
            *command_line(
                dataset=name,
                options=json.dumps({"scorer": "classifier", "scorer_options": SMALL}),
                converted=results / f"converted/{name}/samples-{block}.jsonl.zst",
                raw=results / "raw" / name,
                model=results / "classifiers" / model,
                code=code,
                output=output,
                hardware=hardware(tmp_path),
                threads=threads,
            ),
            "--model-manifest",
            str(results / f"classifiers/{model}.json"),
        ]
    )
    made, *rows = read_jsonl(output)
    paths = {
        medium["sha256"]: medium["path"] for s in samples_of(results, name) for medium in s["media"]
    }
    return made, {paths[row["sha256"]]: row["score"] for row in rows}


def test_folders_are_labels_and_equal_names_do_not_collide(tmp_path):
    raw = tmp_path / "raw"
    for number, name in enumerate(
        ("0/a.PNG", "0/deep/a.png", "1/a.png", "1/b.JpG", "1/c.TIFF", "1/d.webp", "stray.png")
    ):
        save(vase(number, True), raw / name)
    (raw / "1/notes.txt").write_text("kept apart")
    (raw / "1/broken.jpeg").write_bytes(b"\xff\xd8\xff no picture")
    results = tmp_path / "results"
    manifest = lock_and_convert(results, "d", raw, "labelled_images", None)
    samples = samples_of(results, "d")
    assert {s["media"][0]["path"]: s["meta"]["label"] for s in samples} == {
        "0/a.PNG": "0", "0/deep/a.png": "0", "1/a.png": "1", "1/b.JpG": "1", "1/c.TIFF": "1",
        "1/d.webp": "1",
    }  # fmt: skip
    assert len({s["id"] for s in samples}) == 6
    rejects = rejects_of(results, "d")
    check_sums(manifest, rejects)
    assert {line["row"]: line["reason"] for line in rejects} == {
        "stray.png#0": "no_label",
        "1/broken.jpeg#0": "corrupt_image",
    }
    plain = {"classes": False, "folder": "1"}
    lock_and_convert(results, "e", raw, "labelled_images", None, format_options=plain)
    assert [s["media"][0]["path"] for s in samples_of(results, "e")] == [
        "1/a.png", "1/b.JpG", "1/c.TIFF", "1/d.webp",
    ]  # fmt: skip
    assert all(s["meta"] == {} for s in samples_of(results, "e"))


def test_real_folders_as_classes(shared_data, tmp_path):
    results, raw = tmp_path / "results", shared_data / "multiview_chicken"
    manifest = lock_and_convert(results, "chicken", raw, "labelled_images", None)
    assert manifest["rows"] == {"in": 48, "kept": 48, "rejected": 0}
    found = read_labelled(results / "converted/chicken/manifest.json", "chicken-gt")
    assert found.counts == {"chicken-gt": 32, "chicken-pr": 16}
    parts = split(found, 42)
    assert len(parts["validation"]) == len(parts["test"]) == 5 and not found.contradicting


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "2"}, "no picture"),
        ({"classes": "yes"}, "classes: 'yes'; allowed: true, false"),
        ({"folder": 3}, "folder: 3 is no text"),
        ({"class": True}, "no option class"),
    ],
)
def test_options_of_the_format_are_checked(tmp_path, options, message):
    save(vase(1, True), tmp_path / "raw/0/a.png")
    with pytest.raises((ConfigError, DataError), match=message):
        lock_and_convert(
            tmp_path / "results", "d", tmp_path / "raw", "labelled_images", None,
            format_options=options,
        )  # fmt: skip


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


def test_augmentation_is_on_for_training_and_off_for_judging(tmp_path):
    save(vase(3, True, 50), tmp_path / "a.png")
    pixels = square(str(tmp_path / "a.png"), 32)
    seen = [augmented(pixels, seed) for seed in range(12)]
    assert all(np.array_equal(one, augmented(pixels, seed)) for seed, one in enumerate(seen))
    assert len({one.tobytes() for one in [pixels, *seen]}) == 13
    assert np.array_equal(pixels, square(str(tmp_path / "a.png"), 32))
    before = torch.random.get_rng_state()
    augmented(pixels, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    means = [float(one.mean()) for one in seen]
    assert np.std(means) > 2  # recoloured
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 1, 3))
    slopes = [
        one[16, 24].sum() > one[16, 8].sum() for one in (augmented(ramp, n) for n in range(40))
    ]
    assert 10 < sum(slopes) < 30  # mirrored, every other one


def contents(bad, good):
    targets = [0] * bad + [1] * good
    names = [f"{number:064x}" for number in range(len(targets))]
    return Labelled(sha256=names, paths=names, targets=targets, counts={}, contradicting=0)


@given(bad=st.integers(1, 60), good=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_the_split_is_exact_in_every_class(bad, good, seed):
    data = contents(bad, good)
    parts = split(data, seed)
    assert sorted(chain(*parts.values())) == list(range(bad + good))
    for target, count in ((0, bad), (1, good)):
        sizes = {
            part: sum(data.targets[place] == target for place in members)
            for part, members in parts.items()
        }
        tenth = int(count / 10 + 0.5)
        assert sizes == {"validation": tenth, "test": tenth, "train": count - 2 * tenth}
        assert sizes["train"] > 0
    assert parts == split(data, seed)


def test_the_split_follows_from_the_seed_and_the_contents():
    assert split(contents(50, 50), 1) != split(contents(50, 50), 2)
    sizes = {
        count: [len(part) for part in split(contents(count, 1), 0).values()]
        for count in (4, 5, 100)
    }
    assert sizes == {4: [5, 0, 0], 5: [4, 1, 1], 100: [81, 10, 10]}


@pytest.mark.parametrize(("bad", "good"), [(1, 1), (2, 3), (4, 5)])
def test_tiny_sets(tmp_path, bad, good):
    labelled(tmp_path, bad, good)
    report = train(tmp_path, epochs=1, batch=4)
    assert report["contents"]["train"]["bad"] >= 1 and report["contents"]["train"]["good"] >= 1
    assert sum(part["bad"] for part in report["contents"].values()) == bad
    if (bad, good) == (4, 5):
        assert report["contents"]["validation"] == {"bad": 0, "good": 1} and not report["notes"]
        assert report["measures"]["test"]["curve"] is None
    else:
        assert report["measures"]["validation"] is None and report["best_epoch"] == 1
        assert len(report["notes"]) == 2


def test_sets_that_cannot_be_learnt_from(tmp_path):
    results = labelled(tmp_path, 3, 0)
    with pytest.raises(DataError, match=r"labels: a classifier needs .* '0' \(3\), and '1' is the"):
        train(tmp_path)
    labelled(tmp_path, 0, 2, name="contradicting")
    shutil.copytree(tmp_path / "contradicting/1", tmp_path / "contradicting/0")
    lock_and_convert(results, "contradicting", tmp_path / "contradicting", "labelled_images", None)
    with pytest.raises(DataError, match="2 are both and count as neither"):
        train(tmp_path, labels="contradicting")
    lock_and_convert(
        results, "plain", tmp_path / "labels", "labelled_images", None,
        format_options={"classes": False},
    )  # fmt: skip
    with pytest.raises(DataError, match=r"plain:0/000\.png#0 has no meta\.label"):
        train(tmp_path, labels="plain")


def test_copies_count_once(tmp_path):
    labelled(tmp_path, 3, 3)
    shutil.copy(tmp_path / "labels/0/000.png", tmp_path / "labels/0/copy.png")
    shutil.copy(tmp_path / "labels/1/000.png", tmp_path / "labels/0/contradicts.png")
    results = tmp_path / "results"
    lock_and_convert(results, "labels", tmp_path / "labels", "labelled_images", None)
    found = read_labelled(results / "converted/labels/manifest.json", "1")
    assert found.counts == {"0": 5, "1": 3} and found.contradicting == 1
    assert (found.targets.count(0), found.targets.count(1)) == (3, 2)
    assert found.sha256 == sorted(found.sha256)


def artefacts(tmp_path, place):
    folder = tmp_path / "results/classifiers"
    return [
        (folder / f"{place}.json").read_bytes(),
        (folder / place / "model.safetensors").read_bytes(),
        (folder / place / "config.json").read_bytes(),
    ]


def test_same_bytes_whatever_the_processes_and_after_a_kill(tmp_path, capfd):
    labelled(tmp_path, 9, 9)
    options = {"epochs": 3, "patience": 1}
    train(tmp_path, place="one", workers=1, **options)
    expected = artefacts(tmp_path, "one")
    train(tmp_path, place="two", threads=2, workers=2, **options)
    assert artefacts(tmp_path, "two") == expected
    command = arguments(tmp_path, place="killed", checkpoint_every=1, **options)
    process = multiprocessing.get_context("fork").Process(
        target=train_classifier.main, args=(command,)
    )
    process.start()
    while not (saved := list(tmp_path.glob("results/classifiers/.killed.*/state.pt"))):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and saved
    assert not (tmp_path / "results/classifiers/killed.json").exists()
    capfd.readouterr()
    train_classifier.main(command)
    said = capfd.readouterr().err
    assert "going on after epoch" in said and "epoch 1:" not in said
    assert artefacts(tmp_path, "killed") == expected
    assert not list(tmp_path.glob("results/classifiers/.killed.*.unfinished"))


def test_the_rate_falls_when_nothing_is_learnt_any_more_and_then_it_ends(tmp_path):
    labelled(tmp_path, 2, 2)
    report = train(tmp_path, epochs=60, patience=1, learning_rate=1e-9, batch=4)
    rates = [line["learning_rate"] for line in report["curves"]]
    assert rates == sorted(rates, reverse=True) and report["epochs"] < 60
    assert sorted(set(rates)) == pytest.approx([1e-12, 1e-11, 1e-10, 1e-9])


def test_initial_weights_are_loaded_named_and_checked(tmp_path):
    labelled(tmp_path, 2, 2)
    torch.manual_seed(7)
    backbone = resnet18().state_dict()
    folder = tmp_path / "imagenet"
    folder.mkdir()
    file = folder / "resnet18.safetensors"
    save_file({k: v for k, v in backbone.items() if "num_batches" not in k}, file)
    report = train(
        tmp_path, weights=folder, epochs=1, learning_rate=0.0,
        **{"place": "w"},
    )  # fmt: skip
    assert report["weights"]["source"] is None and len(report["weights"]["sha256"]) == 64
    found = load_file(tmp_path / "results/classifiers/w/model.safetensors")
    assert torch.equal(found["layer4.1.conv2.weight"], backbone["layer4.1.conv2.weight"])
    assert found["fc.6.weight"].shape == (2, 256)
    with pytest.raises(DataError, match=r"resnet18\.safetensors: not the weights .* and \d+ more"):
        train(tmp_path, weights=folder, architecture="resnet34", epochs=1)
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match="no weights"):
        train(tmp_path, weights=folder, epochs=1)
    save_file({"a": torch.zeros(1)}, folder / "second.safetensors")
    with pytest.raises(DataError, match="2 safetensors files"):
        train(tmp_path, weights=folder, epochs=1)


def test_measures_by_hand():
    found = measure([0.9, 0.8, 0.4, 0.6, 0.1], [1, 1, 1, 0, 0])
    assert found["confusion"] == [[1, 1], [1, 2]] and found["accuracy"] == pytest.approx(0.6)
    assert found["precision"] == pytest.approx((2 * 0.5 + 3 * 2 / 3) / 5)
    assert found["recall"] == pytest.approx(0.6)
    assert found["average_precision"] == pytest.approx(1 / 3 + 1 / 3 + 0.75 / 3)
    assert {p["threshold"]: (p["precision"], p["recall"]) for p in found["curve"]}[0.6] == (
        pytest.approx((2 / 3, 2 / 3))
    )
    assert measure([], []) is None
    assert measure([0.7], [1])["average_precision"] is None
    random = np.random.default_rng(0)
    assert len(measure(random.random(1000), random.integers(0, 2, 1000))["curve"]) == 100


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
    assert one.fetch_model[one.model_of["scores", scores],] == {"source": weights}
    assert ("labels",) in one.convert
