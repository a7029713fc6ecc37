"""Image scores: once a content, kept while what makes them stays, checked when they are read."""

from __future__ import annotations

import json
import shutil

import pytest

import score_image_shard
from filtered import run_filters, score_images
from project_root import ROOT
from raw_datasets import command_line, lock_and_convert, picture, save, tree_bytes
from shardline.errors import ConfigError, DataError
from shardline.files import read_json, read_jsonl
from shardline.registry import load_plugin
from shardline.scoring import read_scores

SCORER = """
from shardline.errors import ConfigError

CALLS = []

class Name:
    DEFAULTS = {"times": 1.0}
    @staticmethod
    def check(options):
        if options["times"] < 0:
            raise ConfigError(f"times: {options['times']}; allowed: 0 and more")
    @staticmethod
    def score(files, options, run):
        for file in files:
            CALLS.append(file.name)
            value = float(file.stem.rpartition("=")[2])
            yield {"score": value * options["times"], "plain": value}

class Odd:
    DEFAULTS = {"rows": [], "missing": 0}
    @staticmethod
    def score(files, options, run):
        return options["rows"][: len(files) - options["missing"]]

shardline_scorers = {"name": Name, "odd": Odd}
"""


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "scorer.py").write_text(SCORER)
    return str(tmp_path / "scorer.py")


def convert(tmp_path, names, **options):
    """Convert a dataset ``d`` with a row for each named picture, drawn where it is missing."""
    folder = tmp_path / "d"
    says = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
    for number, name in enumerate(names):
        if name and not (folder / name).is_file():
            save(picture(number), folder / name)
    rows = [
        {"id": str(number), "image": name, "conversations": says}
        if name
        else {"id": str(number), "conversations": [{**says[0], "value": "What?"}, says[1]]}
        for number, name in enumerate(names)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    lock_and_convert(tmp_path / "results", "d", folder, "llava", None, **options)
    return folder


def scored(tmp_path, plugin, scorer="name", options=None, **given):
    """Score ``d``; return the new calls of the scorer and all scores."""
    calls = load_plugin(plugin).CALLS
    calls.clear()
    results = tmp_path / "results"
    name = score_images(results, "d", scorer, options or {}, plugins=[plugin], **given)
    manifest = results / "scores/d" / name / "manifest.json"
    return list(calls), read_scores(manifest), manifest


def test_a_content_is_scored_once_whatever_its_names(tmp_path, plugin):
    save(picture(1), tmp_path / "d/a=1.png")
    shutil.copy(tmp_path / "d/a=1.png", tmp_path / "d/b=2.png")
    convert(tmp_path, ["a=1.png", "b=2.png", "c=3.png", "a=1.png", ""])
    calls, scores, manifest = scored(tmp_path, plugin)
    assert calls == ["a=1.png", "c=3.png"]
    assert sorted(row["score"] for row in scores.values()) == [1.0, 3.0]
    content = read_json(manifest)
    assert (content["scorer"], content["options"]) == ("name", {"times": 1.0})
    assert content["images"] == 2 and content["shards"][0]["device"] == "cpu"
    assert "torch" in content["shards"][0]["versions"]


def test_new_images_alone_are_scored_when_a_dataset_grows(tmp_path, plugin):
    names = [f"{letter}={number}.png" for number, letter in enumerate("abcdef")]
    convert(tmp_path, names[:4], shard_rows=2)
    calls, before, _ = scored(tmp_path, plugin)
    assert calls == names[:4]
    assert scored(tmp_path, plugin)[0] == []
    convert(tmp_path, names, shard_rows=2)
    calls, after, manifest = scored(tmp_path, plugin)
    assert calls == names[4:]
    assert {sha256: after[sha256] for sha256 in before} == before and len(after) == 6
    convert(tmp_path, names[::-1], shard_rows=2)
    assert scored(tmp_path, plugin)[:2] == ([], after)
    assert len(read_json(manifest)["shards"]) == 3


def test_other_options_model_or_code_score_anew(tmp_path, plugin):
    convert(tmp_path, ["a=1.png", "b=2.png"])
    first = scored(tmp_path, plugin)
    double = scored(tmp_path, plugin, options={"times": 2.0})
    assert double[0] == first[0] and double[2] != first[2]
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert scored(tmp_path, plugin, model=model)[0] == first[0]
    assert scored(tmp_path, plugin, model=model)[0] == []
    (model / "config.json").write_text("{ }")
    assert scored(tmp_path, plugin, model=model)[0] == first[0]
    results = tmp_path / "results"
    calls = load_plugin(plugin).CALLS
    calls.clear()
    score_image_shard.main(
        command_line(
            **{"model-manifest": model / "config.json"},
            dataset="d",
            options=json.dumps(
                {"scorer": "name", "scorer_options": {"times": 1.0}, "plugins": [plugin]}
            ),
            converted=next((results / "converted/d").glob("samples-*")),
            raw=results / "raw/d",
            model=model,
            code="0ther",
            output=first[2].with_name("scores-00000.jsonl"),
            hardware=ROOT / "config/hardware/cpu.yaml",
            threads=1,
        )
    )
    assert calls == first[0]


def test_scores_of_a_rerun_and_of_kept_ones_have_the_same_bytes(tmp_path, plugin):
    convert(tmp_path, ["a=1.png", "b=2.png", "c=3.png"])
    _, _, manifest = scored(tmp_path, plugin)
    first = tree_bytes(manifest.parent)
    scored(tmp_path, plugin)
    assert tree_bytes(manifest.parent) == first
    for path in manifest.parent.iterdir():
        path.unlink()
    calls, _, _ = scored(tmp_path, plugin, threads=2)
    assert calls and tree_bytes(manifest.parent) == first


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"score": float("nan")}, r"d/a=1\.png: scorer odd gives score nan: not comparable"),
        ({"score": 1.0, "side": float("inf")}, r"d/a=1\.png: scorer odd gives side inf"),
        ({"side": 1.0}, r"d/a=1\.png: scorer odd gives no `score`"),
    ],
)
def test_a_wrong_number_names_the_image(tmp_path, plugin, row, message):
    convert(tmp_path, ["a=1.png", "b=2.png"])
    odd = load_plugin(plugin).Odd
    odd.DEFAULTS = {"rows": None, "missing": 0}
    odd.score = staticmethod(lambda files, options, run: [row] * len(files))
    with pytest.raises(DataError, match=message):
        scored(tmp_path, plugin, "odd")
    assert not list((tmp_path / "results/scores/d").glob("*/scores-*"))


def test_wrong_options_are_config_errors(tmp_path, plugin):
    convert(tmp_path, ["a=1.png"])
    with pytest.raises(ConfigError, match="scorer name: no option twice; there are: times"):
        scored(tmp_path, plugin, options={"twice": True})
    with pytest.raises(ConfigError, match="scorer name: times: -1; allowed: 0 and more"):
        scored(tmp_path, plugin, options={"times": -1})


def test_changed_scores_are_refused(tmp_path, plugin):
    convert(tmp_path, ["a=1.png", "b=2.png"])
    chain = [("best_view", {"scorer": "name"})]
    run_filters(tmp_path / "results", "d", chain, plugins=[plugin])
    _, _, manifest = scored(tmp_path, plugin)
    file = manifest.with_name("scores-00000.jsonl")
    rows = list(read_jsonl(file))
    assert [row["score"] for row in rows[1:]] == [1.0, 2.0]
    file.write_text(file.read_text().replace("1.0", "1.5"))
    with pytest.raises(DataError, match=r"scores-00000\.jsonl is not what"):
        read_scores(manifest)
    file.unlink()
    with pytest.raises(DataError, match="score the images again"):
        read_scores(manifest)
