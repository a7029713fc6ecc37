"""Crops of screenshots: boxes follow the pixels, and nothing depends on chance."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import token_data
from shardline.files import read_json
from shardline.samples import Box, Medium, Point, Sample
from shardline.token_index import read_index
from shardline.variants import cut, source_id, variant_of, variants_of

CROP = {"min": 0.5, "max": 1.5}
OPTIONS = {"crop": CROP, "variants": 4, "seed": 0}


def screen(width, height, boxes, frame="pixel", name="d:f.json#0"):
    """A sample and its image, in which every box is filled with a colour of its own."""
    scale = (width, height) if frame == "unit" else (1, 1)
    image = Image.new("RGB", (width, height), "black")
    labelled = []
    for number, (left, top, right, bottom) in enumerate(boxes):
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), (9, number + 1, 99))
        corners = [left / scale[0], top / scale[1], right / scale[0], bottom / scale[1]]
        labelled.append(Box(label=str(number), xyxy=corners))
    points = [
        Point(label=box.label, xy=[(box.xyxy[0] + box.xyxy[2]) / 2, box.xyxy[1]])
        for box in labelled
    ]
    medium = Medium(kind="image", path="a.png", width=width, height=height)
    sample = Sample(
        id=name, dataset="d", media=[medium], boxes=labelled, points=points, frame=frame
    )
    return sample, np.array(image)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 90), st.integers(20, 90), st.integers(0, 99), st.sampled_from(["pixel", "unit"])
)
def test_boxes_frame_the_same_pixels_in_every_crop(width, height, seed, frame):
    places = [(x, y, x + 6, y + 5) for x in range(0, width - 6, 9) for y in range(0, height - 5, 8)]
    sample, image = screen(width, height, places, frame)
    found = list(variants_of(sample, {**OPTIONS, "seed": seed}))
    assert [variant.sample.id for variant in found] == [f"{sample.id}#v{n}" for n in (1, 2, 3, 4)]
    for shown, window in found:
        if window is None:
            assert shown.boxes == sample.boxes and shown.media == sample.media
            continue
        picture = cut(image, window)
        medium = shown.media[0]
        assert picture.shape[1::-1] == (medium.width, medium.height) == window[2:]
        assert 0.4 * width <= medium.width <= 1.6 * width
        pixels = picture
        assert len(shown.boxes) == len(shown.points) > 0
        for box, point in zip(shown.boxes, shown.points, strict=True):
            left, top, right, bottom = (round(value) for value in box.xyxy)
            assert (left, top) >= (0, 0) and right <= medium.width and bottom <= medium.height
            assert (pixels[top:bottom, left:right] == (9, int(box.label) + 1, 99)).all()
            assert point.label == box.label and left <= point.xy[0] <= right
        whole = {box.label for box in shown.boxes}
        for number in set(range(len(places))) - {int(label) for label in whole}:
            area = (pixels == (9, number + 1, 99)).all(axis=2).sum()
            assert area < 30, "a box that is whole in the crop was left out"
        if medium.width > width and medium.height > height:
            assert (pixels[-1] == 255).all() and len(whole) == len(places)
    assert list(variants_of(sample, {**OPTIONS, "seed": seed})) == found


def test_crops_are_the_same_on_every_machine():
    sample, _ = screen(200, 100, [(90, 40, 110, 60)])
    windows = [window for _, window in variants_of(sample, OPTIONS)]
    assert windows == [(70, -10, 121, 120), (7, 1, 171, 98), (14, -2, 155, 105), (22, 7, 167, 86)]
    other = [window for _, window in variants_of(sample, {**OPTIONS, "seed": 1})]
    assert all(one != two for one, two in zip(windows, other, strict=True))


def test_what_has_no_single_screenshot_with_boxes_is_not_cropped():
    sample, _ = screen(50, 50, [])
    assert [window for _, window in variants_of(sample, OPTIONS)] == [None] * 4
    sample, _ = screen(50, 50, [(0, 0, 50, 50)])
    sample.media *= 2
    assert variant_of(sample, sample.id, OPTIONS).window is None


def test_a_screenshot_whose_elements_a_crop_would_lose_stays_whole():
    sample, _ = screen(60, 60, [(0, 0, 60, 60)])
    options = {"crop": {"min": 0.5, "max": 0.5}, "variants": 1, "seed": 0}
    [(shown, window)] = variants_of(sample, options)
    assert window is None and shown == sample


def test_one_crop_keeps_the_id_and_ids_lead_back():
    sample, _ = screen(90, 90, [(40, 40, 50, 50)])
    [(shown, window)] = variants_of(sample, {**OPTIONS, "variants": 1})
    assert shown.id == sample.id and window is not None
    assert source_id("d:f.json#0#v12") == "d:f.json#0" == source_id("d:f.json#0")


def test_variants_are_samples_of_their_shard_and_are_counted(tmp_path):
    samples = token_data.screens(5)
    samples[3][0].boxes[0].label = "<|im_end|>"
    filtered = token_data.write_filtered(tmp_path, samples)
    model = token_data.tokenizer_folder(tmp_path)
    path = token_data.tokenise(filtered, model, variants=3, crop=CROP)
    manifest = read_json(path)
    assert (
        manifest["samples"]["in"]
        == 15
        == sum(manifest["samples"][key] for key in ("kept", "rejected"))
    )
    assert set(manifest["reasons"]) == {"special_token"}
    [shard] = manifest["shards"]
    rows = read_index(path.parent / shard["index"]).to_pylist()
    assert len({row["key"] for row in rows}) == len(rows) == shard["samples"]
    assert {source_id(row["id"]) for row in rows} <= {sample.id for sample, _ in samples}
    by_id = {sample.id: (sample, data) for sample, data in samples}
    tar = (path.parent / shard["name"]).read_bytes()
    from shardline.families import qwen2_vl as family

    for row in rows:
        sample, data = by_id[source_id(row["id"])]
        _, window = variant_of(sample, row["id"], {**OPTIONS, "variants": 3})
        image = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        picture = cut(image, window) if window else image
        grid = family.image_grid(*picture.shape[1::-1], 4, 64)
        assert row["grids"] == [list(grid)]
        member = next(part for part in row["members"] if part["name"].endswith(".0.png"))
        stored = tar[member["offset"] : member["offset"] + member["size"]]
        expected = family.resize_image(picture, grid)
        assert Image.open(io.BytesIO(stored)).tobytes() == expected.tobytes()
    again = token_data.tokenise(filtered, model, "again", variants=3, crop=CROP)
    assert (again.parent / shard["name"]).read_bytes() == tar


@pytest.mark.parametrize("seed", [0, 7])
def test_prompts_are_spread_by_the_ids_and_the_seed(seed):
    from shardline.tasks import grounding

    options = {"prompt": ["one", "two", "three"], "seed": seed}
    told = []
    for number in range(60):
        sample, _ = screen(50, 50, [(0, 0, 9, 9)], name=f"d:f.json#{number}")
        first = grounding.conversation(sample, options)[0]["content"][0]["text"]
        assert first == grounding.conversation(sample, options)[0]["content"][0]["text"]
        told.append(first)
    assert min(told.count(prompt) for prompt in options["prompt"]) >= 10
    assert grounding.question(sample, 0, options)[0]["content"][0]["text"] == "one"
