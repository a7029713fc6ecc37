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

from shardline import paths
from shardline.cli.main import main
from shardline.cli.project import open_recipes
from shardline.errors import UserError
from shardline.files import canonical_json, read_json, write_json
from shardline.preview import Preview
from small_project import SmallProject, program

RESULTS = Path("results")


def preview(stage: str = "sft") -> Preview:
    return Preview(open_recipes([], ["small"]), "small", stage, RESULTS)


def test_the_page_is_one_file_without_links(small_project, capsys):
    main(["preview", "small", "--samples", "3"])
    page = Path("results/previews/small-sft.html")
    assert capsys.readouterr().out.splitlines() == [str(page), page.resolve().as_uri()]
    text = page.read_text()
    assert text.count('class="sample') == 3
    assert not re.search(r'(?:src|href)="(?!data:|#sample-)', text)
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
        special = {stretch.text.partition(" ")[0] for stretch in text if stretch.special}
        assert special == {
            "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
        }  # fmt: skip


def shapes(seen, kind):
    (scene,) = seen.scenes
    return [shape.values for shape in scene.shapes if shape.kind == kind]


def test_points_of_the_answers_lie_in_the_drawn_boxes(small_project):
    page = preview()
    for number, place in enumerate(page.places(10)):
        seen = page.sample(number, place)
        boxes, points = shapes(seen, "target"), shapes(seen, "taught")
        assert len(boxes) == len(points) == 3
        for (left, top, width, height), (x, y) in zip(boxes, points, strict=True):
            assert left <= x <= left + width
            assert top <= y <= top + height
        assert ("answers", "3 of 3 in their box") in seen.facts


def made(tmp_path, monkeypatch, tokens="", stage="", recipe="", screens=4):
    """A small project of its own, with other options of its tokens, first stage and recipe."""
    monkeypatch.chdir(tmp_path)
    project = SmallProject(tmp_path, screens=screens)
    file = tmp_path / "config/recipes/small.yaml"
    text = file.read_text()
    text = text.replace('prompt: ""}', f'prompt: ""{tokens}}}', 1)
    text = text.replace("        steps: 5\n        max_length: 512\n", stage, 1) if stage else text
    file.write_text(text.replace("    filters: [dedup]\n", f"    filters: [dedup]\n{recipe}", 1))
    return project.make_data()


@pytest.mark.parametrize("style", ["list", "tags", "json", "click"])
@pytest.mark.parametrize("frame", ["unit", "per_mille", "pixel"])
def test_answers_are_drawn_where_they_point_whatever_their_form(
    tmp_path, monkeypatch, style, frame
):
    target = "point" if style == "click" else "box"
    loss = "all" if style in ("list", "tags") else "answers"
    how = f"target: {target}, style: {style}, frame: {frame}, decimals: 4"
    made(tmp_path, monkeypatch, f", loss: {loss}, answer: {{{how}}}")
    page = preview()
    for number, place in enumerate(page.places(4)):
        seen = page.sample(number, place)
        boxes, answers = shapes(seen, "target"), shapes(seen, "taught")
        assert len(boxes) == len(answers) == 3
        assert ("answers", "3 of 3 in their box") in seen.facts
        for (left, top, width, height), answer in zip(boxes, answers, strict=True):
            found = [left, top, width, height]
            if target == "point":
                found = [left + width / 2, top + height / 2]
            assert answer == pytest.approx(found, abs=1.5)


def test_crops_show_the_boxes_that_are_whole_in_them(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, ", crop: {min: 0.5, max: 1.5}, variants: 4")
    page = preview()
    places = page.places(100)
    sizes = set()
    for number, place in enumerate(places):
        seen = page.sample(number, place)
        assert re.search(r"#v[1-4]$", seen.id)
        boxes = shapes(seen, "target")
        sizes.add((len(boxes), seen.scenes[0].width, seen.scenes[0].height))
        for left, top, width, height in boxes:
            assert left >= 0
            assert left + width <= seen.scenes[0].width
            assert top >= 0
            assert top + height <= seen.scenes[0].height
        assert ("answers", f"{len(boxes)} of {len(boxes)} in their box") in seen.facts
    assert len(places) == 16
    assert len(sizes) > 4


def test_what_the_plan_cuts_is_marked(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, stage="""\
        steps: 2
        max_length: 70
        too_long: truncate_answer
        max_reject_share: 1.0
""", screens=3)  # fmt: skip
    page = preview()
    places = page.places(10)
    assert any(place.cut for place in places)
    for number, place in enumerate(places):
        stored, seen = page.reader.read(place.shard, place.row), page.sample(number, place)
        text = "".join(stretch.text for stretch in seen.text if stretch.kind == "cut")
        ids = stored.input_ids.tolist()
        assert text == page.tokenizer.decode(
            ids[len(ids) - place.cut :] if place.cut else [], skip_special_tokens=False
        )
        learned = int((stored.labels[1 : len(ids) - place.cut] != -100).sum())
        assert ("tokens", f"{place.length}, {learned} of them learned") in seen.facts


def test_what_is_held_out_has_a_page_of_its_own(tmp_path, monkeypatch, capsys):
    split = "    split: {validation: 50%, by: sample}\n"
    project = made(tmp_path, monkeypatch, recipe=split, screens=8)
    key = ("small", "sft")
    options = project.project.plan_validation[key]
    (manifest,) = [paths.tokens(d.dataset, d.tokens) for d in project.project.stage_data[key]]
    stem = paths.validation_plan(*key).removesuffix(".json")
    program(
        "plan_stage",
        *("--options", canonical_json(options), "--tokens", manifest),
        *("--plan", f"{stem}.json", "--parquet", f"{stem}.parquet"),
        *("--rejects", f"{stem}.rejects.jsonl"),
    )
    main(["preview", "small", "--samples=100"])
    main(["preview", "small", "--samples=100", "--validation"])
    pages = [Path(line).read_text() for line in capsys.readouterr().out.splitlines()[::2]]
    trained, held = (set(re.findall(r"</span>(screens:[^<]+)</h3>", text)) for text in pages)
    assert len(trained | held) == 8
    assert not trained & held
    assert "small / sft, held out" in pages[1]


def test_without_a_split_nothing_is_held_out(small_project):
    with pytest.raises(UserError, match="recipe small holds nothing out: it has no `split`"):
        main(["preview", "small", "--validation"])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("max_length: 512", "max_length: 256", "max_length: 512, now 256"),
        ("steps: 5", "steps: 6", "steps: 5, now 6"),
        ("samples: 4", "samples: 2", "global_batch"),
        ("train: [screens]", 'train: ["screens%50"]', "train"),
    ],
)
def test_a_plan_of_another_config_is_not_shown(small_project, old, new, named):
    file = Path("config/recipes/small.yaml")
    file.write_text(file.read_text().replace(old, new, 1))
    text = preview().render(2)
    assert "the plan there is of another config" in text
    assert named in text
    assert "Packs</h2>" not in text


def test_tokens_of_another_config_are_not_shown_as_this_one_s(small_project):
    file = Path("config/recipes/small.yaml")
    file.write_text(file.read_text().replace("max_visual_tokens: 64", "max_visual_tokens: 16"))
    with pytest.raises(UserError, match="tokenise the data first"):
        main(["preview", "small"])


def test_packs_are_the_plans(small_project):
    page = preview()
    first = page.packs(page.places(2))
    assert [pack.step for pack in first.packs] == [1, 2, 3, 4, 5]
    assert sum(pack.tokens for pack in first.packs) == page.plan.summary["tokens"]
    for pack in first.packs:
        assert sum(part["tokens"] for part in pack.parts) == pack.tokens
        assert sum(part["share"] for part in pack.parts) <= 100
    assert [part["number"] for part in first.packs[0].parts] == [1, 2, None, None]
    assert first.more == ""
    assert page.render(2).count('<a href="#sample-') >= 2


def test_packs_of_one_sample_fill_the_bar_of_the_longest(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, screens=10, stage="""\
        packing: flatten
        steps: 5
        max_length: 512
""")  # fmt: skip
    page = preview()
    first = page.packs(page.places(1))
    assert len(first.packs) == 12
    assert max(pack.parts[0]["share"] for pack in first.packs) == 100
    assert {len(pack.parts) for pack in first.packs} == {1}
    assert first.more == "and 2 more steps"
    assert "side by side" in first.how


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
