"""The CLIP filter: scores as the formula says, thresholds as NumPy says, folders as the seed's."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import export_filter_folders
from clip_models import CONFIG, PIXELS, write_hugging_face, write_open_clip
from filtered import MAX_PIXELS, audited, context_of, message, rejected, run_filters, sample
from project_root import ROOT
from raw_datasets import command_line, lock_and_convert, picture, save, tree_bytes
from shardline import clip
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.errors import ConfigError, DataError
from shardline.exporting.filter_folders import CLASS_FOLDERS
from shardline.exporting.filter_folders import export_filter_folders as export_folders
from shardline.files import read_json, read_jsonl
from shardline.filters import best_view, clip_quality
from shardline.media import audit_image
from shardline.parallel import Workers
from shardline.samples import Medium
from shardline.scorers import clip_quality as scorer
from shardline.scoring import Run

SIZES = [(120, 80), (48, 48), (31, 300), (700, 490), (97, 131)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty-one pictures of several sizes and modes; more than one batch, and no whole number."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(20):
        save(picture(number, SIZES[number % len(SIZES)]), folder / f"{number:02}.png")
    save(picture(20, (90, 60)).quantize(16), folder / "20.png")
    return sorted(folder.iterdir())


def scores(files, model, threads=1, **options):
    with Workers(threads) as workers:
        run = Run(model=model, device="cpu", threads=threads, workers=workers)
        return list(scorer.score(files, {**scorer.DEFAULTS, **options}, run))


@cache
def weights(folder: Path) -> Any:
    import open_clip

    net = open_clip.CLIP(**CONFIG)
    net.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return net.eval(), open_clip.SimpleTokenizer(context_length=24)


def straight_line(file: Path, folder: Path) -> tuple[float, float]:
    """Both cosines of one image, by other means: no batch, no cast to 64 bits, no `clip`."""
    from torchvision import transforms

    net, tokenizer = weights(folder)
    side = CONFIG["vision_cfg"]["image_size"]
    prepare = transforms.Compose(
        [
            transforms.Resize(side, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(PIXELS["mean"], PIXELS["std"]),
        ]
    )
    with torch.no_grad():
        image = net.encode_image(prepare(Image.open(file).convert("RGB"))[None])[0]
        image = image / image.norm()
        cosines = []
        for prompts in (scorer.DEFAULTS["high"], scorer.DEFAULTS["low"]):
            total = sum(net.encode_text(tokenizer([prompt]))[0] for prompt in prompts)
            mean = total / len(prompts)
            cosines.append(float(image @ (mean / mean.norm())))
    return cosines[0], cosines[1]


def test_scores_equal_a_straight_line_implementation(pictures, model):
    found = scores(pictures, model)
    assert len({row["score"] for row in found}) == len(pictures)
    for file, row in zip(pictures, found, strict=True):
        high, low = straight_line(file, model)
        expected = {"score": high - low, "high": high, "low": low}
        assert row == pytest.approx(expected, abs=1e-5)


def test_text_embeddings_are_averaged_before_they_are_brought_to_length_one():
    texts = {"a": [3.0, 0.0], "b": [0.0, 1.0]}
    toy = clip.Clip(
        embed_pixels=lambda pixels: pixels,
        embed_texts=lambda names: torch.tensor([texts[name] for name in names]),
        transform=None,
        device="cpu",
    )
    assert clip._side(toy, ["a", "b"]) == pytest.approx([0.9487, 0.3162], abs=1e-4)


def test_eight_prompts_a_side_of_our_own():
    sides = scorer.DEFAULTS["high"], scorer.DEFAULTS["low"]
    assert [len(set(side)) for side in sides] == [8, 8] and not set(sides[0]) & set(sides[1])


def test_scores_depend_neither_on_processes_nor_on_the_other_images(pictures, model):
    alone = scores(pictures, model)
    assert scores(pictures, model, threads=2) == alone
    assert scores(pictures[::-1], model)[::-1] == alone
    assert scores(pictures[4:19:5], model, threads=3) == alone[4:19:5]
    assert scores([], model) == []


def test_images_are_scored_as_people_see_them(tmp_path, model):
    """Upright, transparency on white."""
    upright = picture(3, (64, 96))
    save(upright, tmp_path / "a.png")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(turned, tmp_path / "b.png", exif=exif)
    clear = Image.new("RGBA", (64, 64), (0, 200, 0, 0))
    save(clear, tmp_path / "c.png")
    save(Image.new("RGB", (64, 64), "white"), tmp_path / "d.png")
    a, b, c, d = scores([tmp_path / f"{name}.png" for name in "abcd"], model)
    assert a == b and c == d and a != c


def test_a_hugging_face_folder_gives_what_its_own_model_does(tmp_path):
    folder = write_hugging_face(tmp_path / "hf")
    from torchvision import transforms
    from transformers import CLIPModel, CLIPTokenizerFast

    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        save(picture(number, (48, 48)), files[-1])
    prompts = {"high": ["one whole vase", "a jar"], "low": ["sherds"]}
    net = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    prepare = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(PIXELS["mean"], PIXELS["std"])]
    )
    with torch.no_grad():
        sides = {}
        for name, texts in prompts.items():
            each = [
                net.text_projection(net.text_model(**tokenizer(text, return_tensors="pt"))[1])
                for text in texts
            ]
            sides[name] = torch.nn.functional.normalize(torch.cat(each).mean(0), dim=0)
        for file, row in zip(files, scores(files, folder, **prompts), strict=True):
            pixels = prepare(Image.open(file))[None]
            embedding = net.visual_projection(net.vision_model(pixels)[1])[0]
            embedding = embedding / embedding.norm()
            expected = {name: float(embedding @ side) for name, side in sides.items()}
            assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert sides["high"] @ sides["low"] < 0.999


def test_folders_without_a_clip_model_are_named(pictures, tmp_path, model):
    with pytest.raises(DataError, match="holds no CLIP model: it needs open_clip_config"):
        scores(pictures[:1], tmp_path)
    pickled = write_open_clip(tmp_path / "pickled")
    weights = pickled / "open_clip_model.safetensors"
    weights.rename(pickled / "open_clip_pytorch_model.bin")
    with pytest.raises(DataError, match="holds no CLIP model"):
        scores(pictures[:1], pickled)
    broken = write_open_clip(tmp_path / "broken")
    (broken / weights.name).write_bytes((model / weights.name).read_bytes()[:1000])
    with pytest.raises(DataError, match="broken: the CLIP model does not load"):
        scores(pictures[:1], broken)
    other = {**CONFIG, "embed_dim": 16}
    config = {"model_cfg": other, "preprocess_cfg": PIXELS}
    (model.parent / "other").mkdir()
    for file in model.iterdir():
        (model.parent / "other" / file.name).write_bytes(file.read_bytes())
    (model.parent / "other/open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="other: the CLIP model does not load"):
        scores(pictures[:1], model.parent / "other")


def with_scores(values, **options):
    """What the filter says of one sample an image of these scores."""
    samples = [
        sample(number, media=[Medium(kind="image", path=f"{number}.png", sha256=f"{number:04}")])
        for number in range(len(values))
    ]
    found = {f"{number:04}": {"score": value} for number, value in enumerate(values)}
    context = context_of(clip_quality, scores=found, **options)
    return clip_quality.judge(samples, context)


def test_an_automatic_threshold_is_the_percentile_and_keeps_ties():
    verdict = with_scores([0, 0.1, 0.2, 0.3, 0.4])
    assert verdict.figures["threshold"] == pytest.approx(0.1)
    assert rejected(verdict) == {0: "low_quality"}
    assert verdict.rejected["d:rows.json#0"].detail == {
        "path": "0.png",
        "score": 0,
        "threshold": verdict.figures["threshold"],
    }
    assert rejected(with_scores([0.5] * 9)) == {}


def test_a_fixed_threshold_takes_what_reaches_it():
    assert rejected(with_scores([1.0], mode="fixed", threshold=1.0)) == {}
    assert rejected(with_scores([1.0], mode="fixed", threshold=1.01)) == {0: "low_quality"}
    assert rejected(with_scores([-0.2], mode="fixed", threshold=0.1)) == {0: "low_quality"}


def test_analysis_keeps_all_and_recommends():
    values = np.random.default_rng(4).normal(0.02, 0.05, 40).tolist()
    verdict = with_scores(values, mode="analyse")
    assert not verdict.rejected and verdict.figures["threshold"] is None
    assert verdict.figures["accepted_images"] == 40 and verdict.figures["acceptance_rate"] == 1
    names = {"conservative": 10, "medium": 25, "balanced": 50, "aggressive": 75, "strict": 90}
    assert verdict.figures["recommended"] == pytest.approx(
        {name: np.percentile(values, p) for name, p in names.items()}
    )
    assert verdict.figures["statistics"] == pytest.approx(
        {
            "mean": np.mean(values),
            "std": np.std(values),
            "min": min(values),
            "max": max(values),
            "median": np.median(values),
            **{f"percentile_{p}": np.percentile(values, p) for p in names.values()},
        }
    )


def test_a_quick_look_scores_a_share_and_keeps_all(vases, model):
    options = {"mode": "analyse", "share": 0.5}
    summary = run_filters(vases, "vases", [("clip_quality", options)], models=[model])
    folder = vases / "scores/vases" / summary["filters"][0]["scores"]
    content = read_json(folder / "manifest.json")
    whole = run_filters(
        vases, "vases", [("clip_quality", {"mode": "analyse"})], models=[model], variant="all"
    )
    seen, total = content["images"], whole["filters"][0]["figures"]["total_images"]
    assert 0 < seen < total
    figures = summary["filters"][0]["figures"]
    assert figures["total_images"] == figures["sample"]["images"] == seen
    assert summary["samples"] == whole["samples"] and not summary["samples"]["rejected"]


@given(
    st.lists(st.floats(-2, 2, width=32), max_size=30),
    st.floats(0, 100),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_counts_add_up_and_the_sample_is_what_numpy_is_asked_about(values, percentile, size, seed):
    verdict = with_scores(values, percentile=percentile, sample_size=size, seed=seed)
    figures = verdict.figures
    assert figures["sample"] == {"images": min(size, len(values)), "of": len(values)}
    assert figures["total_images"] == len(values)
    assert figures["rejected_images"] == len(verdict.rejected)
    assert figures["accepted_images"] + figures["rejected_images"] == len(values)
    if values and size >= len(values):
        threshold = np.percentile(values, percentile)
        assert figures["threshold"] == pytest.approx(threshold, abs=1e-9)
        assert len(rejected(verdict)) == sum(value < figures["threshold"] for value in values)


def test_the_sample_is_seeded_and_does_not_depend_on_the_order():
    values = np.random.default_rng(1).normal(size=300).tolist()
    first = with_scores(values, sample_size=30).figures
    assert with_scores(values, sample_size=30).figures == first
    assert with_scores(values, sample_size=30, seed=1).figures["threshold"] != first["threshold"]
    grown = with_scores([*values, *[9.0] * 3], sample_size=30).figures
    assert grown["statistics"]["max"] in (first["statistics"]["max"], 9.0)
    assert first["sample"] == {"images": 30, "of": 300}


def test_a_sample_is_as_good_as_its_worst_image():
    pair = [Medium(kind="image", path=f"{name}.png", sha256=name) for name in ("good", "bad")]
    samples = [
        sample(0, media=pair),
        sample(1, media=pair[:1]),
        sample(2, message("user", "no picture")),
        sample(3, media=[Medium(kind="video", path="v.mp4", sha256="video")]),
    ]
    found = {"good": {"score": 0.2}, "bad": {"score": -0.2}}
    context = context_of(clip_quality, scores=found, mode="fixed", threshold=0.0)
    verdict = clip_quality.judge(samples, context)
    assert rejected(verdict) == {0: "low_quality"}
    assert verdict.rejected["d:rows.json#0"].detail["path"] == "bad.png"
    assert verdict.figures["samples_without_images"] == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mode": "ask"}, "mode: 'ask'; allowed: automatic, fixed, analyse"),
        ({"mode": "fixed"}, "threshold: None; allowed with mode fixed: a number"),
        ({"mode": "fixed", "threshold": True}, "threshold: True"),
        ({"mode": "fixed", "threshold": float("nan")}, "threshold: nan"),
        ({"threshold": 0.1}, "threshold: 0.1; allowed with mode fixed alone, not automatic"),
        ({"percentile": 101}, "percentile: 101; allowed: 0 to 100"),
        ({"sample_size": 0}, "sample_size: 0"),
        ({"share": 0.5}, "share: 0.5; allowed with mode automatic: 1.0"),
    ],
)
def test_options_that_make_no_sense_are_config_errors(options, problem):
    with pytest.raises(ConfigError, match=problem):
        clip_quality.check({**clip_quality.DEFAULTS, **options})
    with pytest.raises(ConfigError, match=rf"recipes\.mine.*filters\.clip_quality\.{problem[:4]}"):
        project([{"clip_quality": options}])


def test_views_are_compared_by_all_their_scores():
    options = {"scorer": "clip_quality", "scorer_options": {"share": 0.5}}
    with pytest.raises(ConfigError, match=r"recipes\.mine.*best_view\.scorer_options: share 0.5"):
        project([{"best_view": options}])


@pytest.mark.parametrize("options", [{"high": []}, {"low": ["", "x"]}, {"low": [1]}])
def test_prompts_are_texts(options):
    (side,) = options
    with pytest.raises(ConfigError, match=f"recipes\\.mine.*{side}: .*; allowed: a list"):
        project([{"clip_quality": options}])
    with pytest.raises(ConfigError, match=f"recipes\\.mine.*{side}: .*; allowed: a list"):
        project([{"best_view": {"scorer": "clip_quality", "scorer_options": options}}])


def project(filters):
    recipe = {"extends": "demo", "filters": filters}
    layer = Layer("mine.yaml", {"build": ["mine"], "recipes": {"mine": recipe}})
    return Project(load([*project_layers(ROOT), layer]), ROOT)


def test_another_threshold_shares_the_scores_and_another_prompt_does_not():
    def scored(**options):
        return {name for _, name in project([{"clip_quality": options}]).score_images}

    assert scored() == scored(mode="fixed", threshold=0.1) == scored(percentile=10, seed=3)
    assert scored() != scored(low=["a broken vase"])
    both = project(["clip_quality", {"best_view": {"scorer": "clip_quality", "score": "high"}}])
    assert {name for _, name in both.score_images} == scored()
    (fetched,) = (options for (name,), options in both.fetch_model.items() if "CLIP" in name)
    assert fetched["source"] == scorer.DEFAULTS["model"]
    with pytest.raises(ConfigError, match=r"clip_quality\.model = '/data/clip'"):
        project([{"clip_quality": {"model": "/data/clip"}}])


@pytest.fixture
def vases(tmp_path, pictures):
    """Results with a dataset of 21 pictures and two unreadable files."""
    folder = tmp_path / "vases"
    rows = []
    for number, file in enumerate(pictures):
        save(Image.open(file), folder / "images" / file.name)
        rows.append(row(f"images/{file.name}", number))
    (folder / "images/cut.png").write_bytes(pictures[0].read_bytes()[:200])
    (folder / "images/empty.png").write_bytes(b"")
    rows += [row("images/cut.png", 30), row("images/empty.png", 31)]
    (folder / "rows.json").write_text(json.dumps(rows))
    lock_and_convert(tmp_path / "results", "vases", folder, "llava", None)
    return tmp_path / "results"


def row(image, number):
    says = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A vase."}]
    return {"id": str(number), "image": image, "conversations": says}


def test_unreadable_files_enter_no_statistic(vases, pictures, model):
    summary = run_filters(vases, "vases", [("clip_quality", {})], models=[model])
    (entry,) = summary["filters"]
    values = [straight_line(file, model) for file in pictures]
    values = [high - low for high, low in values]
    figures = entry["figures"]
    assert figures["total_images"] == len(pictures)
    assert figures["threshold"] == pytest.approx(np.percentile(values, 25), abs=1e-5)
    assert figures["statistics"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert summary["samples"] == {"in": 21, "kept": 16, "rejected": 5}
    assert {row["reason"] for row in read_jsonl(vases / "converted/vases/rejects.jsonl")} == {
        "corrupt_image",
        "empty_file",
    }
    assert entry["options"]["model"] == clip_quality.DEFAULTS["model"]
    assert entry["options"]["high"] == scorer.DEFAULTS["high"]


def test_a_threshold_found_once_stays_when_the_dataset_grows(vases, model):
    chain = [("clip_quality", {})]
    before = run_filters(vases, "vases", chain, models=[model])
    first = tree_bytes(vases / "filtered")
    run_filters(vases, "vases", chain, models=[model])
    assert tree_bytes(vases / "filtered") == first
    folder = vases.parent / "vases"
    rows = read_json(folder / "rows.json")
    for number in range(40, 60):
        save(picture(number, (90, 70)), folder / f"images/{number}.png")
        rows.append(row(f"images/{number}.png", number))
    (folder / "rows.json").write_text(json.dumps(rows))
    lock_and_convert(vases, "vases", folder, "llava", None)
    after = run_filters(vases, "vases", chain, models=[model])
    figures, old = after["filters"][0]["figures"], before["filters"][0]["figures"]
    assert figures["threshold"] == old["threshold"]
    assert (figures["total_images"], figures["sample"]["of"]) == (41, 21)
    fresh = run_filters(vases, "vases", [("clip_quality", {"seed": 1})], models=[model])
    figures = fresh["filters"][0]["figures"]
    assert figures["sample"]["of"] == 41 and figures["threshold"] != old["threshold"]


def test_best_view_by_the_nearness_to_good_prompts(pictures, model):
    found = scores(pictures[:4], model)
    samples = [
        sample(n, group="g", media=[Medium(kind="image", path=file.name, sha256=str(n))])
        for n, file in enumerate(pictures[:4])
    ]
    by_sha256 = {str(n): values for n, values in enumerate(found)}
    options = {"scorer": "clip_quality", "score": "high"}
    context = context_of(best_view, scores=by_sha256, **options)
    kept = {0, 1, 2, 3} - set(rejected(best_view.judge(samples, context)))
    assert kept == {int(np.argmax([row["high"] for row in found]))}
    with pytest.raises(ConfigError, match=r"score: 'best'; clip_quality gives: score, high, low"):
        best_view.judge(samples, context_of(best_view, scores=by_sha256, score="best", **{
            "scorer": "clip_quality"}))  # fmt: skip


def test_export_of_the_clip_filter_has_the_fields_of_the_seed(vases, model, tmp_path):
    chain = [("clip_quality", {})]
    summary = run_filters(vases, "vases", chain, models=[model])
    arguments = {
        "dataset": "vases", "variant": "v", "results": vases, "output": tmp_path / "out",
    }  # fmt: skip
    export_filter_folders.main(command_line(**arguments, filter="clip_quality"))
    report = read_json(tmp_path / "out/filtering_report.json")
    figures = summary["filters"][0]["figures"]
    assert {key: report[key] for key in report if key != "results"} == {
        "input_directory": str(vases / "raw/vases"),
        "output_directory": str(tmp_path / "out"),
        "total_images": 21,
        "accepted_images": 16,
        "rejected_images": 5,
        "acceptance_rate": 16 / 21,
        "threshold": figures["threshold"],
        "processing_time_seconds": 0.0,
    }
    for result in report["results"]:
        assert set(result) == {
            "filename", "quality_score", "high_quality_similarity", "low_quality_similarity",
            "accepted",
        }  # fmt: skip
        assert result["accepted"] is (result["quality_score"] >= report["threshold"])
        place = "accepted" if result["accepted"] else "rejected"
        raw = vases / "raw/vases/images" / result["filename"]
        assert (tmp_path / "out" / place / result["filename"]).read_bytes() == raw.read_bytes()
    files = tree_bytes(tmp_path / "out")
    assert len(files) == 22
    export_filter_folders.main(command_line(**arguments, filter="clip_quality"))
    assert tree_bytes(tmp_path / "out") == files
    with pytest.raises(ConfigError, match="judge by scores: clip_quality"):
        export_filter_folders.main(command_line(**arguments, filter="best_view"))


def test_export_of_classes_and_of_equal_base_names(tmp_path):
    for number, name in enumerate(["a/front.png", "b/front.png", "a/side.png"]):
        save(picture(number), tmp_path / "raw" / name)
    samples, _ = audited(tmp_path / "raw", (tmp_path / "raw").rglob("*.png"))
    found = {
        item.media[0].sha256: {"score": 0.5 if "a/" in item.media[0].path else 0.4}
        for item in samples
    }
    report = export_classes(tmp_path, samples, found)
    assert set(tree_bytes(tmp_path / "out")) == {
        "filtering_report.json",
        "images3/1/a/front.png",
        "images3/1/side.png",
        "images3/0/b/front.png",
    }
    assert report["accepted_images"] == 2
    (tmp_path / "out/filtering_report.json").unlink()
    with pytest.raises(DataError, match="not of an earlier export"):
        export_classes(tmp_path, samples, found)


def export_classes(tmp_path, samples, found):
    return export_folders(
        samples=samples,
        scores=found,
        threshold=0.5,
        raw=tmp_path / "raw",
        output=tmp_path / "out",
        folders=CLASS_FOLDERS,
    )


def test_real_pictures_that_pass_the_audit_have_a_score(shared_data, model):
    """Every image that the audit takes can be scored, whatever its mode."""
    files = [
        file
        for name in ("tricky_pillow", "quality_filtering")
        for file in sorted((shared_data / name).iterdir())
        if file.is_file() and not audit_image(str(file), MAX_PIXELS).reason
    ]
    found = scores(files, model, threads=2)
    assert len(files) > 20
    assert all(-2 <= row["score"] <= 2 for row in found)
    flat = [row["score"] for row in found]
    assert len(set(flat)) > len(files) // 2
