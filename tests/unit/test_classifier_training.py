"""Training the classifier: the split, augmentation, small sets, the rate, weights, equal bytes."""

from __future__ import annotations

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
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18

import train_classifier
from classifiers import arguments, labelled, train, vase
from raw_datasets import lock_and_convert, save
from shardline.classifier.labelled import Labelled, read_labelled, split
from shardline.classifier.measures import measure
from shardline.classifier.pixels import augmented, square
from shardline.errors import DataError


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
