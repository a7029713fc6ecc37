"""One view a group: scores, ties, and what is lost."""

from __future__ import annotations

import json
import shutil
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFilter

import write_filter_manifest
from filtered import run_filters, sample
from project_root import ROOT
from raw_datasets import command_line, lock_and_convert, picture, save, tree_bytes
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.dag import code
from shardline.errors import ConfigError, DataError
from shardline.files import read_json, read_jsonl
from shardline.registry import load_plugin
from shardline.samples import Medium
from shardline.scorers.sharpness import score_file
from shardline.views import best_view, views_by_group

FORMAT = """
import json
from shardline.rows import Row
from shardline.samples import Medium

class Views:
    DEFAULTS = {}
    FRAMES = ()
    @staticmethod
    def read(raw, options):
        for index, view in enumerate(json.loads((raw / "views.json").read_text())):
            text = [{"type": "image"}, {"type": "text", "text": view.get("text", "a vase")}]
            yield Row(file="views.json", index=index, group=view["group"], meta=view["meta"],
                      media=[Medium(kind="image", path=view["image"])],
                      messages=[{"role": "user", "content": text}])

shardline_formats = {"views": Views}
"""


SCORER = """
CALLS = []

class Name:
    DEFAULTS = {}

    @staticmethod
    def score(files, options, run):
        for file in files:
            CALLS.append(file.name)
            yield {"score": float(file.stem.rpartition("=")[2])}

shardline_scorers = {"name": Name}
"""


def view(number, group, score, **fields):
    """A sample of one image whose scores entry is its own hash."""
    media = [Medium(kind="image", path=f"{number}.png", sha256=str(score))]
    return sample(number, group=group, media=media, **fields)


def chosen(samples):
    """Number of the sample that stands for each group, where sha256 texts are the scores."""
    scores = {medium.sha256: float(medium.sha256) for item in samples for medium in item.media}
    groups = views_by_group(samples, scores)
    ids = {group: best_view(views).samples[0] for group, views in groups.items()}
    return {group: int(name.rpartition("#")[2]) for group, name in ids.items()}


def views_dataset(tmp_path, views, name="vases"):
    """Convert pictures listed as (image, group, meta) with the plug-in format above."""
    (tmp_path / "views_format.py").write_text(FORMAT)
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    rows = [{"image": image, "group": group, "meta": meta} for image, group, meta in views]
    (folder / "views.json").write_text(json.dumps(rows))
    lock_and_convert(
        tmp_path / "results", name, folder, "views", None,
        plugins=[str(tmp_path / "views_format.py")],
    )  # fmt: skip
    return folder


def decide(tmp_path, *filters, name="vases", place="v", **options):
    return run_filters(tmp_path / "results", name, filters, variant=place, **options)


def reasons(tmp_path, name="vases"):
    folder = tmp_path / f"results/filtered/{name}/v"
    lines = [line for file in folder.glob("decisions-*.jsonl") for line in read_jsonl(file)]
    return {int(line["id"].rpartition("#")[2]): line["reason"] for line in lines}


def test_equal_scores_go_to_the_lowest_number_then_to_the_first():
    assert chosen([view(0, "a", 1), view(1, "a", 3), view(2, "a", 2), view(3, "b", -1)]) == {
        "a": 1,
        "b": 3,
    }
    numbered = [view(0, "a", 5, meta={"view": 10}), view(1, "a", 5, meta={"view": 9})]
    assert chosen(numbered) == chosen(numbered[::-1]) == {"a": 1}
    texts = [view(0, "a", 5, meta={"view": "010"}), view(1, "a", 5, meta={"view": "9"})]
    assert chosen(texts) == {"a": 1}
    assert chosen([view(0, "a", 5), view(1, "a", 5), view(2, "a", 5, meta={"view": 7})]) == {"a": 2}
    for odd in (None, "front", True, 1.0, "²", [1]):
        assert chosen([view(0, "a", 5, meta={"view": odd}), view(1, "a", 5)]) == {"a": 0}


def test_a_view_without_images_is_the_last_choice():
    video = Medium(kind="video", path="turn.mp4", sha256="9")
    samples = [sample(0, group="a"), sample(1, group="a", media=[video]), view(2, "a", -3)]
    assert chosen(samples) == {"a": 2}
    assert chosen(samples[:2]) == {"a": 0}


def test_a_view_of_several_images_has_their_mean_score():
    pair = [Medium(kind="image", path=f"p{score}.png", sha256=str(score)) for score in (1, 6)]
    assert chosen([view(0, "a", 3), sample(1, group="a", media=pair)]) == {"a": 1}
    assert chosen([view(0, "a", 4), sample(1, group="a", media=pair)]) == {"a": 0}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_choice_does_not_depend_on_the_order_of_numbered_views(views, random):
    samples = [
        view(number, group, score, meta={"view": number})
        for number, (group, score) in enumerate(views)
    ]
    shuffled = random.sample(samples, len(samples))
    found = chosen(shuffled)
    assert found == chosen(samples) and set(found) == {group for group, _ in views}
    for group, number in found.items():
        scores = [score for name, score in views if name == group]
        assert views[number][1] == max(scores)


def test_one_view_a_group_stays_with_all_its_samples(tmp_path):
    views = [
        ("soft.png", "a", {"view": 0}),
        ("sharp.png", "a", {"view": 1}),
        ("sharp.png", "a", {"view": 1}),  # another question about the same view
        ("copy.png", "a", {"view": 2}),  # the same bytes, another view
        ("soft.png", "b", {"view": 0}),
        ("soft.png", "", {}),
        ("sharp.png", "", {}),
    ]
    save(picture(1, (240, 160)), tmp_path / "vases/sharp.png")
    shutil.copy(tmp_path / "vases/sharp.png", tmp_path / "vases/copy.png")
    save(
        picture(1, (240, 160)).filter(ImageFilter.GaussianBlur(3)),
        tmp_path / "vases/soft.png",
    )
    folder = views_dataset(tmp_path, views)
    summary = decide(tmp_path, ("best_view", {}))
    found = reasons(tmp_path)
    assert {row for row, reason in found.items() if reason} == {0, 3}
    sharp, soft = (score_file(str(folder / f"{name}.png")) for name in ("sharp", "soft"))
    (entry,) = summary["filters"]
    assert entry["options"] == {"scorer": "sharpness", "scorer_options": {}, "score": "score"}
    assert (entry["rejected"], entry["reasons"]) == (2, {"not_best_view": 2})
    assert entry["figures"] == {
        "groups": 2,
        "views": 4,
        "groups_by_views": {"1": 1, "3": 1},
        "images": 2,
        "ties": 1,
        "best_scores": {"min": soft, "median": soft, "max": sharp},
        "samples_without_group": 2,
    }
    assert summary["groups"] == {"in": 2, "kept": 2, "vanished": 0, "examples": []}
    (line,) = (
        line
        for line in read_jsonl(tmp_path / "results/filtered/vases/v/decisions-00000-png.jsonl")
        if line["id"].endswith("#0")
    )
    assert line["detail"] == {
        "group": "a",
        "score": soft,
        "best": ["sharp.png"],
        "best_score": sharp,
    }


def test_groups_that_vanish_are_named_whichever_filter_took_them(tmp_path):
    views = []
    for number, (group, side) in enumerate(
        [("a", 64), ("a", 16), ("b", 16), ("b", 17), ("c", 64), ("", 16)]
    ):
        save(picture(number, (side, side)), tmp_path / f"vases/{number}.png")
        views.append((f"{number}.png", group, {"view": number}))
    views_dataset(tmp_path, views)
    small = ("resolution", {"min_width": 32})
    summary = decide(tmp_path, small, ("best_view", {}))
    assert summary["groups"] == {
        "in": 3,
        "kept": 2,
        "vanished": 1,
        "examples": [{"group": "b", "reasons": {"too_small": 2}}],
    }
    assert summary["filters"][1]["figures"]["groups"] == 2
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER.replace('float(file.stem.rpartition("=")[2])', "-float(file.stem)"))
    summary = decide(
        tmp_path, ("best_view", {"scorer": "name"}), ("resolution", {"max_width": 32}),
        plugins=[scorer],
    )  # fmt: skip
    assert summary["groups"]["examples"] == [
        {"group": "a", "reasons": {"not_best_view": 1, "too_large": 1}},
        {"group": "c", "reasons": {"too_large": 1}},
    ]
    assert [entry["reasons"] for entry in summary["filters"]] == [
        {"not_best_view": 2},
        {"too_large": 2},
    ]
    folder = tmp_path / "results/filtered/vases/v"
    decide(tmp_path, ("resolution", {"max_width": 1}))
    write_filter_manifest.main(
        command_line(
            decisions=folder / "decisions.json",
            folder=folder,
            manifest=folder / "manifest.json",
            report=folder / "report.json",
            rejects=folder / "rejects.jsonl",
        )
    )
    report = read_json(folder / "report.json")
    assert report["groups"]["vanished"] == 3
    assert report["filters"][0]["reasons"] == {"too_large": 6}


def test_each_content_is_scored_once_by_a_scorer_of_the_users_own(tmp_path):
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    for number, name in enumerate(["a=1", "b=3", "c=2"]):
        save(picture(number), tmp_path / f"vases/{name}.png")
    shutil.copy(tmp_path / "vases/b=3.png", tmp_path / "vases/d=0.png")
    names = ("a=1.png", "b=3.png", "c=2.png", "d=0.png", "b=3.png")
    views_dataset(tmp_path, [(name, "g", {}) for name in names] + [("c=2.png", "h", {})])
    summary = decide(
        tmp_path, ("best_view", {"scorer": "name"}), ("best_view", {"scorer": "name"}),
        plugins=[scorer],
    )  # fmt: skip
    assert {row for row, reason in reasons(tmp_path).items() if not reason} == {1, 4, 5}
    assert [entry["rejected"] for entry in summary["filters"]] == [3, 0]
    assert load_plugin(str(scorer)).CALLS == ["a=1.png", "b=3.png", "c=2.png"]


def test_a_score_that_cannot_be_compared_names_the_file(tmp_path):
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    save(picture(1), tmp_path / "vases/x=nan.png")
    views_dataset(tmp_path, [("x=nan.png", "g", {})])
    with pytest.raises(DataError, match=r"vases/x=nan\.png: scorer name gives score nan: not"):
        decide(tmp_path, ("best_view", {"scorer": "name"}), plugins=[scorer])
    with pytest.raises(ConfigError, match="no scorers module is named 'clip'"):
        decide(tmp_path, ("best_view", {"scorer": "clip"}))


def test_an_image_that_is_gone_is_named(tmp_path):
    save(picture(1), tmp_path / "vases/x.png")
    folder = views_dataset(tmp_path, [("x.png", "g", {})])
    (folder / "x.png").unlink()
    with pytest.raises(DataError, match=r"x\.png: .*it was there and whole"):
        decide(tmp_path, ("best_view", {}))


def test_same_bytes_on_one_and_on_two_processes(tmp_path):
    views = []
    for number in range(24):
        save(picture(number), tmp_path / f"vases/{number}.png")
        views.append((f"{number}.png", f"g{number // 4}", {"view": number % 4}))
    views_dataset(tmp_path, views)
    seen = []
    for place, threads in (("one", 1), ("two", 2)):
        summary = decide(tmp_path, ("best_view", {}), threads=threads, place=place)
        assert summary["samples"] == {"in": 24, "kept": 6, "rejected": 18}
        seen.append(tree_bytes(tmp_path / f"results/filtered/vases/{place}"))
    assert seen[0] == seen[1]


def project(filters, **extra):
    recipe = {"extends": "demo", "filters": filters}
    layer = Layer("mine.yaml", {"build": ["mine"], "recipes": {"mine": recipe}, **extra})
    return Project(load([*project_layers(ROOT), layer]), ROOT)


def test_the_scorer_is_checked_and_its_code_and_plugin_belong_to_the_scores(tmp_path):
    with pytest.raises(ConfigError) as caught:
        project([{"best_view": {"scorer": "clip"}}])
    message = str(caught.value)
    assert "recipes.mine" in message and "filters.best_view.scorer = 'clip'" in message
    assert "sharpness" in message.partition("allowed: ")[2]
    (job, *_) = project(["best_view"]).score_images.values()
    assert job == {"scorer": "sharpness", "scorer_options": {}, "plugins": []}
    files = {entry.split("@")[0] for entry in code("score_image_shard", job)}
    assert "scripts/shardline/scorers/sharpness.py" in files
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    mine = project([{"best_view": {"scorer": "name"}}], plugins=[str(scorer)])
    (job, *_) = mine.score_images.values()
    assert job["plugins"] == [str(scorer)]
    files = {entry.split("@")[0] for entry in code("score_image_shard", job)}
    assert "scorer.py" in files and "scripts/shardline/scorers/sharpness.py" not in files
    (job, *_) = mine.decide.values()
    assert job["plugins"] == []
    files = {entry.split("@")[0].split("shardline/")[-1] for entry in code("decide_filters", job)}
    assert "filters/best_view.py" in files and "scorer.py" not in files


def test_real_views_of_one_object(shared_data, tmp_path):
    raw = shared_data / "multiview_chicken"
    options = {"group": r"(?P<group>chicken-[a-z]+)/(?P<view>\d+)"}
    manifest = lock_and_convert(
        tmp_path / "results", "chicken", raw, "multiview", None, format_options=options
    )
    assert manifest["rows"] == {"in": 48, "kept": 32, "rejected": 16}
    assert manifest["reasons"] == {"no_group": 16}  # the depth maps
    summary = decide(tmp_path, ("best_view", {}), name="chicken")
    assert summary["samples"] == {"in": 32, "kept": 2, "rejected": 30}
    assert summary["filters"][0]["reasons"] == {"not_best_view": 30}
    figures = summary["filters"][0]["figures"]
    assert figures["groups_by_views"] == {"16": 2} and figures["ties"] == 0
    lines = read_jsonl(tmp_path / "results/filtered/chicken/v/decisions-00000-png.jsonl")
    kept = [line["id"] for line in lines if line["kept"]]
    assert kept == ["chicken:chicken-gt/015.png#0", "chicken:chicken-pr/003.png#0"]
    means = [
        statistics.fmean(score_file(str(raw / f"chicken-{kind}/{n:03}.png")) for n in range(16))
        for kind in ("gt", "pr")
    ]
    assert means[0] > means[1]  # what a model made is softer than the render
