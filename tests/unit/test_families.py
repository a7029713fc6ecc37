"""Every real sample, in every family, as the transformers processor and model have it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny_families
import torch
import webdataset
from PIL import Image
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

import token_data
from real_samples import convert, media_bytes
from shardline.errors import DataError
from shardline.exporting.merge import probe_logits
from shardline.families import llava
from shardline.files import canonical_json, file_entry, read_json, write_json
from shardline.image_shards import sample_key
from shardline.loader import PlanDataset
from shardline.pictures import decode_medium, media_grids, sampled
from shardline.placeholders import media_types, placeholder_ids
from shardline.series import extensions, series_of
from shardline.shards import write_shard
from shardline.tasks import chat
from shardline.tokenising import tokenise_sample
from shardline.training.packs import split, stock_losses, token_losses
from workflow.test_data_recipes import RECIPES

HISTORY = {"layout": "agentnet", "history": 2, "interleaving": "vtvt"}
OPTIONS = {
    "min_visual_tokens": 16,
    "max_visual_tokens": 300,
    "video": {
        "interval": 2.0,
        "min_frames": 4,
        "max_frames": 8,
        "min_visual_tokens": 16,
        "max_visual_tokens": 100,
    },
    "loss": "answers",
    "image_side": 112,
    "fit": "pad",
}
SQUARE = {"image_size": OPTIONS["image_side"]}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture
def samples(work, shared_data, request):
    """Every conversation of the recipes' real data, converted once."""
    if not hasattr(request.module, "_samples"):
        found = []
        for datasets, _ in RECIPES.values():
            for name, (folder, form, frame, options) in datasets.items():
                found += convert(
                    shared_data / folder,
                    work,
                    name,
                    format=form,
                    frame=frame,
                    format_options=options,
                )
        found += convert(
            shared_data / "agentnetbench_trajectories",
            work,
            "history",
            format="navigation",
            format_options=HISTORY,
        )
        request.module._samples = [sample for sample in found if sample.messages]
    return request.module._samples


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def built(request, tmp_path_factory):
    """A family, the folder of a tiny model of it, that model and the stock processor."""
    family = tiny_families.FAMILIES[request.param]
    folder = tiny_families.build(request.param, tmp_path_factory.mktemp(request.param))
    model = family.load_model(folder, torch.float32, "cpu").eval()
    return family, folder, model, AutoProcessor.from_pretrained(folder)


def stock(processor, sample, media):
    """What the processor makes of a sample with its decoded media."""
    images = [Image.fromarray(part.frames[0]) for part in media if not part.interval]
    videos, metadata = [], []
    for number, part in enumerate(media):
        if part.interval:
            numbers, _ = sampled(sample, number, OPTIONS)
            facts = sample.meta["media"][number]
            frames, fps = facts["frames"], facts["frames"] / facts["duration"]
            videos.append(np.stack(part.frames))
            metadata.append(VideoMetadata(total_num_frames=frames, fps=fps, frames_indices=numbers))
    limits = OPTIONS["video"]
    text = processor.apply_chat_template(sample.messages, tokenize=False)
    return processor(
        text=[text],
        images=images or None,
        videos=videos or None,
        images_kwargs={"size": edges(OPTIONS)},
        videos_kwargs={"size": edges(limits), "video_metadata": metadata, "do_sample_frames": False}
        if videos
        else {},
        return_tensors="pt",
    )


def edges(limits):
    names = {"shortest_edge": "min_visual_tokens", "longest_edge": "max_visual_tokens"}
    return {edge: limits[name] * 784 for edge, name in names.items()}


def test_real_samples_are_what_the_processor_makes_of_them(built, samples, work):
    family, folder, model, processor = built
    tokenizer = family.load_tokenizer(folder)
    placeholders = placeholder_ids(tokenizer, family)
    kinds = set()
    for sample in samples:
        files = enumerate(media_bytes(sample, work))
        media = [decode_medium(sample, number, data, OPTIONS) for number, data in files]
        ours = tokenise_sample(
            sample, media, family=family, task=chat, tokenizer=tokenizer, options=OPTIONS
        )
        theirs = stock(processor, sample, media)
        ids, labels = family.expand(ours.input_ids, ours.labels, ours.grids, placeholders)
        assert ids.tolist() == theirs["input_ids"][0].tolist(), sample.id
        answers = [
            "".join(part["text"] for part in message["content"])
            for message in sample.messages
            if message["role"] == "assistant"
        ]
        learned = tokenizer.decode(labels[labels != -100].tolist(), skip_special_tokens=False)
        assert learned == "".join(f"{answer}<|im_end|>" for answer in answers), sample.id
        assert ours.grids == media_grids(sample, family, OPTIONS)

        types = media_types(ids, placeholders)
        assert np.array_equal(types, theirs["mm_token_type_ids"][0].numpy())
        theirs_only = {
            name: theirs[name] for name in ("image_grid_thw", "video_grid_thw") if name in theirs
        }
        if "second_per_grid_ts" in theirs:
            theirs_only["second_per_grid_ts"] = theirs["second_per_grid_ts"]
        expected, _ = model.model.get_rope_index(
            theirs["input_ids"], mm_token_type_ids=theirs["mm_token_type_ids"], **theirs_only
        )
        positions = family.positions(ids, ours.grids, placeholders, ours.intervals)
        assert np.array_equal(positions, expected[:, 0].numpy()), sample.id

        of_media = [kind for kind in media_types(ours.input_ids, placeholders).tolist() if kind]
        images = [torch.from_numpy(np.array(image)) for image in ours.images]
        inputs = family.vision_inputs(images, ours.grids, "cpu", torch.float32, of_media)
        if not of_media:
            assert inputs == {}
            continue
        for name in ("image_grid_thw", "video_grid_thw"):
            if name in theirs:
                assert torch.equal(inputs[name], theirs[name]), sample.id
        for name in ("pixel_values", "pixel_values_videos"):
            if name in theirs:
                assert close(inputs[name], theirs[name]), sample.id
        kinds.add(tuple(of_media))
    assert kinds == {(1,), (2,), (1, 1), (1, 1, 1)}


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    return tiny_families.build("llava", folder, vision_config=SQUARE)


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_real_samples_are_what_llavas_processor_makes_of_them(llava_folder, samples, work, fit):
    processor = AutoProcessor.from_pretrained(llava_folder)
    processor.image_processor.do_pad = fit == "pad"
    tokenizer = llava.load_tokenizer(llava_folder)
    placeholders = placeholder_ids(tokenizer, llava)
    options = {**OPTIONS, "fit": fit}
    for sample in samples if fit == "pad" else samples[::4]:
        files = enumerate(media_bytes(sample, work))
        media = [decode_medium(sample, number, data, options) for number, data in files]
        ours = tokenise_sample(
            sample, media, family=llava, task=chat, tokenizer=tokenizer, options=options
        )
        text = processor.apply_chat_template(sample.messages, tokenize=False)
        for part in media:
            text = text.replace("<image>", "<frame>" * len(part.frames), 1)
        frames = [Image.fromarray(frame) for part in media for frame in part.frames]
        text = text.replace("<frame>", "<image>")
        theirs = processor(text=[text], images=frames or None, return_tensors="pt")
        ids, labels = llava.expand(ours.input_ids, ours.labels, ours.grids, placeholders)
        assert ids.tolist() == theirs["input_ids"][0].tolist(), sample.id
        answers = [
            "".join(part["text"] for part in message["content"])
            for message in sample.messages
            if message["role"] == "assistant"
        ]
        learned = tokenizer.decode(labels[labels != -100].tolist(), skip_special_tokens=False)
        assert learned.split("</s>") == [
            *(f" {answer}" if number else answer for number, answer in enumerate(answers)),
            "",
        ]
        assert ours.grids == media_grids(sample, llava, options)
        positions = llava.positions(ids, ours.grids, placeholders)
        assert positions.tolist() == [list(range(len(ids)))]
        images = [torch.from_numpy(np.array(image)) for image in ours.images]
        inputs = llava.vision_inputs(images, ours.grids, "cpu", torch.float32)
        if frames:
            assert close(inputs["pixel_values"].flatten(2), theirs["pixel_values"].flatten(2))


def tokenised(samples, work, family_name, folder, options):
    """The token manifest of samples of one dataset, from shards by kind of media."""
    results = work / family_name
    dataset = samples[0].dataset
    series = defaultdict(list)
    for sample in samples:
        series[series_of(sample)].append(sample)
    filtered = results / "filtered" / dataset / "all" / "manifest.json"
    shards = []
    for name, members in sorted(series.items()):
        path = filtered.with_name(f"shard-00000-{name}.tar")
        write_shard(path, [image_members(sample, work) for sample in members])
        shards.append({**file_entry(path), "samples": len(members)})
    counts = {"in": len(samples), "kept": len(samples), "rejected": 0}
    write_json(filtered, {"dataset": dataset, "samples": counts, "shards": shards})
    return token_data.tokenise(
        filtered, folder, options={"family": family_name, "task": "chat", "tokens": options}
    )


def image_members(sample, work):
    content = {"id": sample.id, "dataset": sample.dataset}
    content["sample"] = canonical_json(sample.to_json())
    files = zip(extensions(sample), media_bytes(sample, work), strict=True)
    return sample_key(sample.id), [
        ("json", canonical_json(content).encode()),
        *((f"{number}.{extension}", data) for number, (extension, data) in enumerate(files)),
    ]


@pytest.mark.parametrize("family_name", ["qwen2_vl", "qwen2_5_vl", "llava"])
def test_shards_of_all_media_are_read_by_others_and_packed(
    family_name, samples, work, llava_folder, tmp_path, request
):
    """From image shards to packs: a pack's losses are those of its samples alone, stock."""
    family = tiny_families.FAMILIES[family_name]
    folder = llava_folder
    if family_name != "llava":
        folder = tiny_families.build(family_name, tmp_path / "model")
    options = {**OPTIONS, "max_visual_tokens": 64, "seed": 0}
    manifests = []
    for dataset in ("mllm", "history", "swift", "finetune"):
        part = [sample for sample in samples if sample.dataset == dataset]
        manifests.append(tokenised(part, work, family_name, folder, options))
        manifest = read_json(manifests[-1])
        assert manifest["samples"] == {"in": len(part), "kept": len(part), "rejected": 0}
    tars = sorted(str(tar) for path in manifests for tar in path.parent.glob("*.tar"))
    assert {Path(tar).stem.removeprefix("shard-00000-") for tar in tars} >= {"mp4", "none", "2jpg"}
    for tar in tars if family_name == "qwen2_vl" else ():
        count = len(list(webdataset.WebDataset(tar, shardshuffle=False).decode("pil")))
        rows = datasets.load_dataset(
            "webdataset", data_files=tar, split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(rows) == count > 0

    plan = token_data.plan(
        work / family_name,
        manifests,
        family=family_name,
        global_batch={"samples": 8},
        max_length=3000,
    )
    data = PlanDataset(work / family_name, plan, plan.with_suffix(".parquet"), family)
    model = family.load_model(folder, torch.float32, "cpu").eval()
    assert torch.isfinite(probe_logits(family, folder, model)).all()
    mixed = 0
    for step in range(data.plan.steps):
        for micro in range(len(data.plan.packs(step))):
            row = data.row(step, micro)
            mixed += len(set(row["media_types"])) == 2
            with torch.no_grad():
                packed = token_losses(model, family, row)
                alone = [stock_losses(model, family, part) for part in split(row, family)]
            assert torch.allclose(packed, torch.cat(alone), atol=2e-4), row["samples"]
    assert mixed or family_name == "llava"


@pytest.mark.parametrize(
    ("fit", "size"), [("pad", (90, 40)), ("pad", (40, 90)), ("crop", (60, 140))]
)
def test_boxes_are_drawn_where_the_square_shows_them(fit, size):
    width, height = size
    options = {"image_side": 112, "fit": fit}
    left, top = width // 2 - 8, height // 2 - 6
    image = Image.new("RGB", size, "black")
    image.paste("white", (left, top, left + 16, top + 12))
    grid = llava.media_grid(width, height, None, options)
    seen = llava.resize([np.array(image)], grid, options).min(axis=2) > 128
    unit = [left / width, top / height, (left + 16) / width, (top + 12) / height]
    drawn = [value * 112 for value in llava.on_picture(unit, width, height, options)]
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert drawn == pytest.approx(found, abs=2)


def test_token_merging_keeps_what_the_published_tower_keeps():
    kept = {
        ratio: llava.kept_tokens(729, llava.Merging(ratio, 32))
        for ratio in (1.0, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01)
    }
    assert list(kept.values()) == [729, 605, 388, 326, 264, 171, 109, 78, 47]
    video = (8, 27, 27)
    assert llava.visual_tokens(video) == 8 * 729
    assert llava.visual_tokens(video, llava.Merging(0.1, 32)) == 872
    assert llava.visual_tokens(video, llava.Merging(0.1, 32, slowfast=True)) == 1492
    assert llava.visual_tokens((1, 27, 27), llava.Merging(0.1, 32, slowfast=True)) == 109
    ids = np.array([5, 9, 6], dtype=np.int32)
    tokens, _ = llava.expand(ids, ids, [(1, 27, 27)], [9], llava.Merging(0.1, 32))
    assert len(tokens) == 2 + 109
    with pytest.raises(DataError, match="109 placeholders where the media have 729"):
        llava.positions(tokens, [(1, 27, 27)], [9])


def close(ours, theirs):
    """Equal but for the order of operations when normalising in fp32."""
    return torch.allclose(ours, theirs, rtol=0, atol=1e-6)
