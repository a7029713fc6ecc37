"""The filters resolution, aspect, text_length and language: what they reject, and what they say."""

from __future__ import annotations

import json
import sys
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filtered import audited, judge, message, rejected, sample, sized
from project_root import ROOT
from shardline.config.layers import Layer, load, project_layers
from shardline.config.project import Project
from shardline.errors import ConfigError
from shardline.samples import Box, Point
from shardline.writing import BLOCKS, NAMES, OTHER, letters_by_script, script_of

NONE = {"min": None, "median": None, "max": None}


def spread(least, median, most):
    return {"min": least, "median": median, "max": most}


def labelled(number, *labels, points=False, messages=()):
    if points:
        return sample(number, *messages, points=[Point(label=name, xy=[0, 0]) for name in labels])
    boxes = [Box(label=name, xyxy=[0, 0, 1, 1]) for name in labels]
    return sample(number, *messages, boxes=boxes)


def said(number, user, assistant):
    return sample(number, message("user", "<image>", user), message("assistant", assistant))


def test_resolution_limits_each_side_and_the_pixels():
    samples = [sized(0, (100, 50)), sized(1, (101, 50)), sized(2, (99, 50)), sized(3, (10, 500))]
    for options, expected in (
        ({}, {}),
        ({"min_width": 100}, {2: "too_small", 3: "too_small"}),
        ({"max_width": 100}, {1: "too_large"}),
        ({"min_height": 51}, {0: "too_small", 1: "too_small", 2: "too_small"}),
        ({"max_height": 499}, {3: "too_large"}),
        ({"min_pixels": 5000}, {2: "too_small"}),
        ({"max_pixels": 5000}, {1: "too_large"}),
        ({"min_width": 100, "max_width": 100}, {1: "too_large", 2: "too_small", 3: "too_small"}),
    ):
        assert rejected(judge("resolution", samples, **options)) == expected
    verdict = judge("resolution", samples, max_pixels=5000)
    (decision,) = verdict.rejected.values()
    assert decision.detail == {"path": "1-0.png", "size": "101x50", "limit": "max_pixels 5000"}
    assert verdict.figures == {
        "media": 4,
        "of_unknown_size": 0,
        "width": spread(10, 99, 101),
        "height": spread(50, 50, 500),
        "pixels": spread(4950, 5000, 5050),
    }


def test_one_medium_out_of_several_is_enough_and_unknown_sizes_are_counted():
    samples = [
        sized(0, (100, 100), (10, 10), (5, 5)),
        sized(1, (0, 0), kind="video"),
        sized(2, (0, 0), (9, 9), kind="video"),
        sample(3),
    ]
    verdict = judge("resolution", samples, min_width=50)
    assert rejected(verdict) == {0: "too_small", 2: "too_small"}
    assert verdict.rejected[samples[0].id].detail["path"] == "0-1.png"
    assert (verdict.figures["media"], verdict.figures["of_unknown_size"]) == (6, 2)
    verdict = judge("aspect", samples, max_ratio=1)
    assert not verdict.rejected and verdict.figures == {
        "media": 6,
        "of_unknown_size": 2,
        "ratio": spread(1.0, 1.0, 1.0),
    }
    assert judge("aspect", []).figures["ratio"] == NONE


def test_aspect_takes_the_limit_itself_and_either_direction():
    samples = [sized(0, (400, 100)), sized(1, (401, 100)), sized(2, (100, 401)), sized(3, (1, 900))]
    verdict = judge("aspect", samples, max_ratio=4)
    assert rejected(verdict) == dict.fromkeys((1, 2, 3), "extreme_aspect")
    decision = verdict.rejected[samples[2].id]
    assert decision.detail == {"path": "2-0.png", "size": "100x401", "ratio": 4.01}
    assert verdict.figures["ratio"] == spread(4.0, 4.01, 900.0)
    assert rejected(judge("aspect", samples)) == {3: "extreme_aspect"}
    assert not judge("aspect", samples, max_ratio=0).rejected


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), max_size=8), st.data())
def test_what_is_kept_keeps_every_limit(sizes, data):
    least, most = sorted(data.draw(st.tuples(st.integers(0, 5000), st.integers(1, 5000))))
    samples = [sized(number, size) for number, size in enumerate(sizes)]
    found = rejected(judge("resolution", samples, min_height=least, max_height=most))
    for number, (_, height) in enumerate(sizes):
        assert (number not in found) == (least <= height <= most)


def test_text_length_counts_characters_of_answers_and_instructions():
    samples = [
        said(0, "What?", "A cat."),
        said(1, "\n  What? ", " A cat.\n"),
        said(2, "Why?", "猫です"),
        sample(3, message("user", "a"), message("assistant", "b" * 3), message("assistant", "c")),
        sample(4, message("user", "a")),
        sample(5, message("system", "s" * 99), message("assistant", "A cat.")),
        sample(6),
    ]
    for options, expected in (
        ({}, {}),
        ({"min_answer": 4}, dict.fromkeys((2, 4, 6), "answer_too_short")),
        ({"max_answer": 5}, dict.fromkeys((0, 1, 5), "answer_too_long")),
        ({"min_instruction": 1}, dict.fromkeys((5, 6), "instruction_too_short")),
        ({"max_instruction": 4}, dict.fromkeys((0, 1), "instruction_too_long")),
        ({"min_answer": 4, "max_instruction": 3}, {
            0: "instruction_too_long",
            1: "instruction_too_long",
            2: "answer_too_short",
            4: "answer_too_short",
            6: "answer_too_short",
        }),
    ):  # fmt: skip
        assert rejected(judge("text_length", samples, **options)) == expected
    verdict = judge("text_length", samples, max_answer=5)
    assert verdict.rejected[samples[0].id].detail == {"characters": 6, "max_answer": 5}
    assert verdict.figures == {
        "answer_characters": spread(0, 4, 6),
        "instruction_characters": spread(0, 1, 5),
    }


def test_each_label_is_an_instruction_and_boxes_alone_have_no_answer():
    samples = [
        labelled(0, "Save", "Open the file"),
        labelled(1, "OK"),
        labelled(2, "Save", points=True),
        labelled(3, "Save", messages=[message("user", "Go"), message("assistant", "")]),
    ]
    assert rejected(judge("text_length", samples, min_answer=1)) == {3: "answer_too_short"}
    for options, expected in (
        ({"min_instruction": 3}, [1, 3]),
        ({"max_instruction": 4}, [0]),
        ({"min_instruction": 2, "max_instruction": 13}, []),
    ):
        assert sorted(rejected(judge("text_length", samples, **options))) == expected
    figures = judge("text_length", samples[:3]).figures
    assert figures["answer_characters"] == NONE
    assert figures["instruction_characters"] == spread(2, 4, 13)


def test_language_judges_the_share_of_letters():
    samples = [
        said(0, "What is it?", "A café, 12 €."),
        said(1, "Что это?", "Кот."),
        said(2, "这是什么？", "一只猫。"),
        said(3, "12 + 30?", "42 🙂"),
        said(4, "abcdefghi", "ж"),
        said(5, "abcdefgh", "жж"),
        sample(6, message("system", "Ты помощник."), message("assistant", "Yes")),
        labelled(7, "Сохранить"),
        labelled(8, "Файл", points=True),
        sample(9),
    ]
    assert not judge("language", samples).rejected
    verdict = judge("language", samples, allowed=["latin"])
    assert rejected(verdict) == dict.fromkeys((1, 2, 5, 7, 8), "other_script")
    assert verdict.rejected[samples[5].id].detail == {
        "allowed_share": 0.8,
        "letters": {"cyrillic": 2, "latin": 8},
    }
    assert verdict.figures["samples_without_letters"] == 2
    assert verdict.figures["letters"] == {"cyrillic": 25, "han": 7, "latin": 33}
    assert sorted(rejected(judge("language", samples, allowed=["latin", "han"]))) == [1, 5, 7, 8]
    kept = judge("language", samples, allowed=["cyrillic"], min_share=0.2).rejected
    assert sorted(int(name[-1]) for name in kept) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("Ελληνικά µm", {"greek": 8, "latin": 1}),
        ("日本語のテキスト", {"han": 3, "hiragana": 1, "katakana": 4}),
        ("한국어 1", {"hangul": 3}),
        ("हिन्दी", {"devanagari": 3}),
        ("ไทย العربية עברית", {"thai": 3, "arabic": 7, "hebrew": 5}),
        ("Ｆｕｌｌ ﬁ ẞ ŉ", {"latin": 7}),
        ("𝒳 ℝ ʰ × ÷ ½ № ① 😀 \n\0", {}),
        ("ᏣᎳᎩ", {"other": 3}),
        ("𠀀〇々 ㄅ", {"han": 2, "bopomofo": 1}),
        ("", {}),
    ],
)
def test_scripts_of_letters(text, scripts):
    assert letters_by_script(text) == scripts


def test_scripts_agree_with_the_names_of_the_characters():
    words = {"cjk": "han", "ideographic": "han", "halfwidth": "", "fullwidth": "", "modifier": ""}
    nameless = {"letter", "feminine", "masculine"}
    odd = letters = 0
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if script_of(character) in ("", OTHER):
            continue
        first, _, rest = unicodedata.name(character).lower().partition(" ")
        word = words.get(first, first) or rest.split()[0]
        letters += 1
        odd += word not in (script_of(character), *nameless)
    assert letters > 100_000 and odd < 50


@given(st.text())
def test_every_letter_is_counted_once(text):
    found = letters_by_script(text)
    assert set(found) <= set(NAMES) and found.total() <= sum(map(str.isalpha, text))
    assert letters_by_script(text * 2) == found + found


def test_blocks_do_not_overlap():
    ranges = sorted(block for blocks in BLOCKS.values() for block in blocks)
    edges = [edge for block in ranges for edge in block]
    assert edges == sorted(edges)
    assert all(first[1] < second[0] for first, second in pairwise(ranges))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"resolution": {"min_width": -1}}, "resolution.min_width: -1; allowed: a whole number"),
        ({"resolution": {"min_width": 2.5}}, "resolution.min_width: 2.5; allowed: a whole number"),
        (
            {"resolution": {"min_height": 9, "max_height": 8}},
            "resolution.min_height: 9; allowed: up to max_height, which is 8",
        ),
        ({"aspect": {"max_ratio": "4:1"}}, "aspect.max_ratio: '4:1'; allowed: a number"),
        ({"aspect": {"max_ratio": 0.5}}, "aspect.max_ratio: 0.5; allowed: 1 or more"),
        ({"aspect": {"max_ratio": float("nan")}}, "aspect.max_ratio: nan; allowed: 1 or more"),
        ({"aspect": {"max_ratio": float("inf")}}, "aspect.max_ratio: inf; allowed: 1 or more"),
        ({"text_length": {"max": 3}}, "unknown key 'max'; allowed: max_answer, max_instruction"),
        (
            {"text_length": {"min_answer": 3, "max_answer": 2}},
            "text_length.min_answer: 3; allowed: up to max_answer, which is 2",
        ),
        ({"language": {"allowed": "latin"}}, "language.allowed: 'latin'; allowed: a list"),
        ({"language": {"allowed": ["latin", "en"]}}, "allowed: 'en' is no script; there are: lat"),
        ({"language": {"allowed": [["latin"]]}}, "allowed: ['latin'] is no script"),
        ({"language": {"min_share": 1.5}}, "language.min_share: 1.5; allowed: from 0 to 1"),
    ],
)
def test_a_wrong_option_is_a_config_error_that_names_it(entry, message):
    layer = Layer("mine.yaml", {"build": ["mine"], "recipes": {"mine": {
        "extends": "demo", "filters": [entry]}}})  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        Project(load([*project_layers(ROOT), layer]), ROOT)
    assert "recipes.mine" in str(caught.value) and message in str(caught.value)


def test_right_options_reach_the_job():
    filters = [
        {"resolution": {"min_width": 28, "max_pixels": 100}},
        "aspect",
        {"text_length": {"max_answer": 10}},
        {"language": {"allowed": ["latin", "han"], "min_share": 1}},
    ]
    layer = Layer("mine.yaml", {"build": ["mine"], "recipes": {"mine": {
        "extends": "demo", "filters": filters}}})  # fmt: skip
    (first, *_) = Project(load([*project_layers(ROOT), layer]), ROOT).decide.values()
    assert [entry["name"] for entry in first["filters"]] == [
        *("resolution", "aspect", "text_length", "language"),
    ]
    assert first["filters"][1]["options"] == {"max_ratio": 200.0}
    assert first["filters"][3]["options"] == {"allowed": ["latin", "han"], "min_share": 1}


def test_real_pictures_by_size_and_shape(shared_data):
    raw = shared_data / "quality_filtering"
    samples, reasons = audited(raw, raw.glob("*.png"))
    assert (len(samples), reasons) == (10, {})
    files = {sample.id: sample.media[0].path for sample in samples}
    for name, options, expected in (
        ("aspect", {"max_ratio": 5}, {"image_604.png"}),
        ("aspect", {}, set()),
        ("resolution", {"max_width": 4096}, {"image_604.png"}),
        ("resolution", {"min_width": 300, "min_height": 300}, {
            "image_101.png", "image_142.png", "image_236.png"}),
    ):  # fmt: skip
        verdict = judge(name, samples, **options)
        assert {files[sample] for sample in verdict.rejected} == expected
    assert judge("aspect", samples).figures["ratio"]["max"] == round(15754 / 1382, 4)


def test_real_objects_of_150_to_1060_pixels(shared_data):
    raw = shared_data / "single_view_objects"
    samples, reasons = audited(raw, raw.rglob("*.png"))
    assert (len(samples), reasons) == (22, {})
    verdict = judge("resolution", samples, min_width=180, min_height=180)
    files = {sample.id: sample.media[0].path for sample in samples}
    assert {files[sample] for sample in verdict.rejected} == {
        *("bread.png", "bucket.png", "drum.png", "ground.png"),
    }
    assert verdict.figures["height"]["max"] == 1060


def test_real_tricky_pictures_have_their_upright_size(shared_data):
    raw = shared_data / "tricky_pillow"
    samples, reasons = audited(raw, raw.iterdir())
    assert len(samples) + len(reasons) == 46
    found = judge("resolution", samples, min_width=28, min_height=28).rejected
    files = {sample.id: sample.media[0].path for sample in samples}
    assert {files[sample] for sample in found} == {
        *("exif_gps.jpg", "multipage.tiff", "no_palette.gif", "tRNS_null_1x1.png"),
        "xmp_tags_orientation_exiftool.png",
    }
    raw = shared_data / "exif_orientation"
    samples, _ = audited(raw, raw.rglob("*.jpg"))
    verdict = judge("resolution", samples, max_width=600)
    widths = {sample.media[0].width for sample in samples}
    assert verdict.figures["width"] == spread(min(widths), min(widths), max(widths))
    assert len(samples) == 5 and len(widths) == 1  # one photo, whichever way it is stored


def test_real_conversations_by_language(shared_data):
    rows = json.loads((shared_data / "llama_factory_mllm_demo/mllm_demo.json").read_bytes())
    samples = [
        sample(
            number,
            *(
                message(turn["role"], turn["content"].replace("<image>", ""))
                for turn in row["messages"]
            ),
        )
        for number, row in enumerate(rows)
    ]
    assert len(samples) == 6
    assert sorted(rejected(judge("language", samples, allowed=["latin"]))) == [3, 4, 5]
    assert sorted(rejected(judge("language", samples, allowed=["han"]))) == [0, 1, 2]
    assert not judge("language", samples, allowed=["han", "latin"]).rejected
    assert sorted(rejected(judge("text_length", samples, min_answer=40))) == [3, 4]
