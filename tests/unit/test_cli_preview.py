"""`shardline preview`: what the page shows is what the token shards hold."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shardline.cli.main import main
from shardline.cli.project import open_recipes
from shardline.errors import UserError
from shardline.files import read_json, write_json
from shardline.preview import Preview
from small_project import SmallProject

RESULTS = Path("results")


def preview(stage: str = "sft") -> Preview:
    return Preview(open_recipes([], ["small"]), "small", stage, RESULTS)


def test_the_page_is_one_file_without_links(small_project, capsys):
    main(["preview", "small", "--samples", "3"])
    page = Path("results/previews/small-sft.html")
    assert capsys.readouterr().out.splitlines() == [str(page), page.resolve().as_uri()]
    text = page.read_text()
    assert text.count('class="sample') == 3
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "<script" not in text


def test_the_pictures_are_the_pixels_of_the_shard(small_project):
    page = preview()
    for number, place in enumerate(page.places(4)):
        stored = page.reader.read(place.shard, place.row)
        (scene,) = page.sample(number, place).scenes
        data = base64.b64decode(scene.image.removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.array(Image.open(io.BytesIO(data))), stored.images[0])


def test_the_text_is_all_tokens_and_the_mask_the_labels(small_project):
    page = preview()
    for number, place in enumerate(page.places(4)):
        stored = page.reader.read(place.shard, place.row)
        text = page.sample(number, place).text
        learned = "".join(stretch.text for stretch in text if stretch.kind == "learned")
        assert learned.count("<|im_end|>") == 3
        assert re.fullmatch(r"(\[[\d., ]+\]<\|im_end\|>){3}", learned)
        (medium,) = [stretch.text for stretch in text if stretch.kind == "medium"]
        assert medium == "<|image_pad|> × 20"
        whole = "".join(stretch.text for stretch in text).replace(medium, "<|image_pad|>")
        assert whole == page.tokenizer.decode(stored.input_ids.tolist(), skip_special_tokens=False)


def test_points_of_the_answers_lie_in_the_drawn_boxes(small_project):
    page = preview()
    for number, place in enumerate(page.places(10)):
        (scene,) = (seen := page.sample(number, place)).scenes
        boxes = [shape.values for shape in scene.shapes if shape.kind == "target"]
        points = [shape.values for shape in scene.shapes if shape.kind == "taught"]
        assert len(boxes) == len(points) == 3
        for (left, top, width, height), (x, y) in zip(boxes, points, strict=True):
            assert left <= x <= left + width
            assert top <= y <= top + height
        assert ("points", "3 of 3 in their box") in seen.facts


def test_packs_are_the_plans(small_project):
    page = preview()
    places = page.places(2)
    numbers = {place[:2]: number for number, place in enumerate(places, start=1)}
    packs = page.packs(numbers)
    assert [pack.step for pack in packs] == [1, 2, 3, 4, 5]
    assert sum(pack.tokens for pack in packs) == page.plan.summary["tokens"]
    for pack in packs:
        assert sum(part["tokens"] for part in pack.parts) == pack.tokens
        assert sum(part["share"] for part in pack.parts) <= 100
    assert [part["number"] for part in packs[0].parts] == [1, 2, None, None]


def test_text_from_data_is_escaped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = SmallProject(tmp_path, screens=3)
    metadata = tmp_path / "data/screens/metadata/hf_train.json"
    records = read_json(metadata)
    attack = "<script>alert(1)</script>\"'&"
    records[0]["element"][0]["instruction"] = attack
    write_json(metadata, records)
    project.make_data()
    main(["preview", "small", "--output", "page.html"])
    text = Path("page.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_page_is_the_same_every_time(small_project):
    assert preview().render(5) == preview().render(5)


def test_without_a_plan_samples_come_by_lot(small_project):
    shutil.rmtree("results/plans")
    page = preview()
    places = page.places(4)
    assert len({place[:2] for place in places}) == 4
    assert places == preview().places(4)
    text = page.render(4)
    assert "there is no plan yet" in text
    assert text.count('class="sample') == 4


def test_without_tokens_the_error_says_what_to_run(small_project):
    shutil.rmtree("results/plans")
    shutil.rmtree("results/tokens")
    with pytest.raises(UserError, match="tokenise the data first: snakemake --profile"):
        main(["preview", "small"])


@pytest.mark.parametrize("number", ["0", "-1", "201"])
def test_a_number_of_samples_that_makes_no_page(small_project, number):
    with pytest.raises(UserError, match="from 1 to 200"):
        main(["preview", "small", f"--samples={number}"])


def test_more_samples_than_there_are(small_project):
    assert len(preview().places(100)) == 10
