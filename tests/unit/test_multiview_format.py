"""Views of objects: rows of VaseVQA's kind, and folders of pictures grouped by their names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquet_data import embedded, image_bytes, write_parquet
from raw_datasets import check_sums, lock_and_convert, picture, rejects_of, samples_of, save
from shardline.errors import ConfigError, DataError
from shardline.formats import multiview
from shardline.samples import Sample
from shardline.views import views_by_group

VASE = "1B2C3D4E-0000-4000-8000-00000000000A"
OTHER = "1B2C3D4E-0000-4000-8000-00000000000B"


@pytest.fixture
def folder(tmp_path):
    """Three views of a vase and one of another."""
    folder = tmp_path / "raw"
    for number in (2, 10, 3):
        save(picture(number), folder / f"v/{VASE}_{number}_ac001001.jpg")
    save(picture(4), folder / f"v/{OTHER}_1_ac001001.jpg")
    return folder


def convert_all(results, folder, **options):
    manifest = lock_and_convert(results, "d", folder, "multiview", None, format_options=options)
    rejects = rejects_of(results, "d")
    check_sums(manifest, rejects)
    return samples_of(results, "d"), {reject["row"]: reject["reason"] for reject in rejects}


def view(number, vase=VASE):
    return f"v/{vase}_{number}_ac001001.jpg"


def turns(*texts):
    return [
        {"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)
    ]


def write_rows(folder, rows, name="video_training_dataset.json"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(rows))


def parts(message):
    return [part.get("text", part["type"]) for part in message["content"]]


def test_the_chickens_views(shared_data, results):
    pattern = r"(?P<group>chicken-\w+)/(?P<view>\d+)"
    samples, rejects = convert_all(results, shared_data / "multiview_chicken", group=pattern)
    assert len(samples) == 32 and set(rejects.values()) == {"no_group"}
    assert set(rejects) == {f"chicken-gt/{number:03d}-depth.png#0" for number in range(16)}
    by_group = views_by_group(
        map(Sample.from_json, samples),
        {sample["media"][0]["sha256"]: 0.0 for sample in samples},
    )
    assert {group: [view.number for view in views] for group, views in by_group.items()} == {
        "chicken-gt": list(range(16)),
        "chicken-pr": list(range(16)),
    }
    assert samples[0]["messages"] == [] and samples[0]["media"][0]["path"] == "chicken-gt/000.png"


@pytest.mark.parametrize(
    ("name", "pattern", "groups", "rows"),
    [
        ("single_view_objects", r"(?:.*/)?(?P<group>[^/]+)", 22, 22),
        ("turntable_gifs", r"(?P<group>[^/]+)/(?P<view>\d+)", 3, 12),
    ],
)
def test_other_real_folders(shared_data, results, name, pattern, groups, rows):
    samples, rejects = convert_all(results, shared_data / name, group=pattern)
    assert len(samples) == rows and not rejects
    assert len({sample["group"] for sample in samples}) == groups
    samples, rejects = convert_all(results, shared_data / name)
    assert not samples and set(rejects.values()) == {"no_group"} and len(rejects) == rows


def test_a_folder_of_vase_views(folder, results):
    save(picture(5), folder / "images3/1/renamed.jpg")
    save(picture(6), folder / f"images3/1/{OTHER.lower()}_7_ac001001.PNG")
    (folder / "images3/1/notes.txt").write_text("no picture")
    samples, rejects = convert_all(results, folder)
    assert rejects == {"images3/1/renamed.jpg#0": "no_group"}
    found = [(sample["group"], sample["meta"]["view"]) for sample in samples]
    assert found == [(OTHER.lower(), 7), (VASE, 10), (VASE, 2), (VASE, 3), (OTHER, 1)]
    samples, rejects = convert_all(results, folder, views="v")
    assert len(samples) == 4 and not rejects


@pytest.mark.parametrize(
    ("path", "group", "view"),
    [
        (f"{VASE}_2_ac001001.jpg", VASE, 2),
        (f"a/b_c/{VASE}_12_ac001001.jpg", VASE, 12),
        ("vase_007.png", "vase", 7),
        ("vase_1_2_3.png", "vase", 1),
        ("vase.png", "", None),
        ("vase_x_1.png", "", None),
        ("_1_a.png", "", None),
        ("red_vase_1.png", "", None),
    ],
)
def test_the_default_pattern(tmp_path, path, group, view):
    save(picture(1), tmp_path / path)
    (row,) = multiview.read(tmp_path, {})
    assert (row.group, row.meta.get("view")) == (group, view)
    assert bool(row.rejection) == (not group)


def test_other_layouts_by_a_pattern_of_ones_own(tmp_path):
    renders = tmp_path / "renders"
    for side in ("front", "back"):
        save(picture(1), renders / f"{VASE}_4_ac001001_textured_2k.glb_shaded/{side}.jpg")
        save(picture(2), tmp_path / f"by_side/images/{side}/{OTHER}.png")
    found = multiview.read(renders, {"group": r"(?P<group>[^_]+)_\d+_.*_shaded/(?P<view>[a-z]+)"})
    assert [(row.group, row.meta) for row in found] == [
        (VASE, {"view": "back"}),
        (VASE, {"view": "front"}),
    ]
    pattern = r"images/(?P<view>\w+)/(?P<group>.+)"
    found = multiview.read(tmp_path / "by_side", {"group": pattern})
    assert [row.group for row in found] == [OTHER, OTHER]


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9-]{1,12}", fullmatch=True),
        st.sets(st.integers(0, 999), min_size=1, max_size=4),
        max_size=4,
    )
)
def test_every_view_is_in_its_group(groups):
    pattern = multiview._pattern(multiview.DEFAULTS["group"])
    for group, numbers in groups.items():
        for number in numbers:
            found = multiview._object_of(f"x_1/y/{group}_{number}_ac001001.jpg", pattern)
            assert found == (group, number)


def test_rows_of_vasevqa(folder, results):
    rows = [
        {
            "images": [view(2)],
            "caption": "An amphora.",
            "conversations": turns("<image>What shape is it?", "The shape is AMPHORA. "),
        },
        {"images": [view(2), view(10)], "conversations": turns("<image>\nor <image>?", "Both.")},
        {"images": [view(3), view(10)], "conversations": turns("Same?", "Yes.", "Why?", "It is.")},
        {"images": [view(3)], "caption": "A caption.\n", "data_by": "someone"},
        {"images": [view(2), view(1, OTHER)], "caption": "Two vases.", "conversations": []},
        {"images": ["v/plain.jpg"], "caption": "No group."},
    ]
    save(picture(9), folder / "v/plain.jpg")
    write_rows(folder, rows)
    samples, rejects = convert_all(results, folder)
    assert not rejects
    assert [sample["group"] for sample in samples] == [VASE, VASE, VASE, VASE, "", ""]
    assert [[parts(message) for message in sample["messages"]] for sample in samples] == [
        [["image", "What shape is it?"], ["The shape is AMPHORA. "]],
        [["image", "\nor ", "image", "?"], ["Both."]],
        [["image", "image", "Same?"], ["Yes."], ["Why?"], ["It is."]],
        [["image", "Describe this object."], ["A caption.\n"]],
        [["image", "image", "Describe this object."], ["Two vases."]],
        [["image", "Describe this object."], ["No group."]],
    ]
    assert samples[0]["meta"] == {"caption": "An amphora.", "view": 2}
    assert samples[1]["meta"] == {}
    assert samples[3]["meta"] == {"caption": "A caption.\n", "data_by": "someone", "view": 3}
    for sample, row in zip(samples, rows, strict=True):
        assert [medium["path"] for medium in sample["media"]] == row["images"]
    samples, _ = convert_all(results, folder, question="")
    assert parts(samples[3]["messages"][0]) == ["image"]


def test_every_way_a_row_can_be_wrong(folder, results):
    good = {"images": [view(2)], "conversations": turns("<image>a", "b")}
    rows = {
        "no_conversation": {"images": [view(2)]},
        "no_media": {"images": [], "caption": "b"},
        "missing_image": {**good, "images": [view(99)]},
        "placeholder_mismatch": {**good, "images": [view(2), view(3)]},
        "bad_media": {**good, "images": [7]},
        "unsafe_path": {**good, "images": ["../../a.jpg"]},
        "empty_answer": {"images": [view(2)], "caption": " "},
        "bad_turn": {"images": [view(2)], "conversations": {"from": "human"}},
        "unknown_role": {"images": [view(2)], "conversations": [{"from": "x", "value": "<image>"}]},
        "bad_row": ["text"],
    }
    lines = [json.dumps(row) for row in [*rows.values(), good]]
    lines += ['{"images": ["v/', b"\xff".decode("latin-1")]
    (folder / "rows.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    samples, rejects = convert_all(results, folder)
    assert [sample["id"] for sample in samples] == [f"d:rows.jsonl#{len(rows)}"]
    reasons = [*rows, "", "malformed_json", "bad_encoding"]
    expected = {f"rows.jsonl#{row}": reason for row, reason in enumerate(reasons) if reason}
    assert rejects == expected


def test_rows_with_embedded_views(tmp_path, results):
    images = [[embedded(image_bytes(1)), embedded(image_bytes(2, "JPEG"))], []]
    columns = {"images": images, "caption": ["A vase.", "Nothing."], "image_1": [1, 2]}
    write_parquet(tmp_path / "raw/a.parquet", columns)
    samples, rejects = convert_all(results, tmp_path / "raw")
    assert rejects == {"a.parquet#1": "no_media"}
    (sample,) = samples
    assert [medium["path"] for medium in sample["media"]] == [
        "a.parquet#0/images/0.png",
        "a.parquet#0/images/1.jpg",
    ]
    assert sample["group"] == ""


def test_options_that_make_no_sense(tmp_path):
    for options, error in (
        ({"group": "("}, "group: '\\('"),
        ({"group": r"\d+"}, "has no"),
        ({"group": None}, "group: None"),
        ({"question": None}, "question: None is no text"),
        ({"pattern": ""}, "no option pattern"),
    ):
        with pytest.raises(ConfigError, match=error):
            list(multiview.read(tmp_path, options))
    for options, error in (
        ({}, "no picture"),
        ({"views": "../x"}, "no picture"),
        ({"annotations": "*.json"}, "no annotation file"),
    ):
        with pytest.raises(DataError, match=error):
            list(multiview.read(tmp_path, options))
