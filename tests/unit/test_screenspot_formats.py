"""ScreenSpot in all its copies: the same targets, whatever they are written in."""

from __future__ import annotations

import json

import pytest

from parquet_data import embedded, image_bytes, write_parquet
from raw_datasets import (
    check_sums,
    lock_and_convert,
    picture,
    rejects_of,
    samples_of,
    save,
    tree_bytes,
    write_showui,
)
from shardline.boxes import FRAMES
from shardline.errors import ConfigError, DataError
from shardline.samples import to_unit

WIDTH, HEIGHT = 960, 540
TARGETS = [  # group, kind, image, instruction, box as left, top, width, height in pixels
    ("desktop", "icon", "pc_1.png", "close", [910, 78, 44, 34]),
    ("desktop", "text", "pc_1.png", "  minimize this window\t", [835, 0, 36, 30]),
    ("mobile", "icon", "mobile_2.png", "打开设置", [0, 0, 960, 540]),
    ("web", "text", "web_3.png", "view é", [1.5, 2.25, 10, 0.5]),
]


@pytest.fixture
def folder(tmp_path):
    """A folder with the pictures of `TARGETS`, and no annotations."""
    folder = tmp_path / "raw"
    for seed, name in enumerate(("pc_1.png", "mobile_2.png", "web_3.png")):
        save(picture(seed, (WIDTH, HEIGHT)), folder / "images" / name)
    return folder


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def corners(box):
    left, top, width, height = box
    return [left, top, left + width, top + height]


def unit(box):
    return [value / size for value, size in zip(corners(box), [WIDTH, HEIGHT] * 2, strict=True)]


def version_1(folder):
    """Three files, as SeeClick publishes them; ``data_source`` names the application."""
    for group in ("desktop", "mobile", "web"):
        rows = [
            {"img_filename": image, "bbox": box, "instruction": text, "data_type": kind,
             "data_source": "shop"}
            for of, kind, image, text, box in TARGETS if of == group
        ]  # fmt: skip
        write(folder / f"screenspot_{group}.json", rows)
    return "pixel_xywh"


def one_file(folder):
    rows = [
        {"img_filename": image, "bbox": box, "instruction": text, "data_type": kind}
        for _, kind, image, text, box in TARGETS
    ]
    write(folder / "screenspot.json", rows)
    return "pixel_xywh"


def version_2(folder):
    """GUI-Actor's copy: corners, and ``platform`` is the application."""
    for group in ("desktop", "mobile", "web"):
        rows = [
            {"img_filename": image, "bbox": corners(box), "instruction": text, "ui_type": kind,
             "img_size": [WIDTH, HEIGHT], "platform": "shop", "group": group}
            for of, kind, image, text, box in TARGETS if of == group
        ]  # fmt: skip
        write(folder / f"screenspot_{group}_v2.json", rows)
    return "pixel_xyxy"


def by_showui(folder):
    rows = [
        {"id": f"ss_{number}", "split": group, "img_url": image, "img_size": [WIDTH, HEIGHT],
         "task": text, "bbox": json.dumps(box), "data_type": kind}
        for number, (group, kind, image, text, box) in enumerate(TARGETS)
    ]  # fmt: skip
    write_showui(folder, rows, "hf_test_full.json")
    return "pixel_xywh"


def nested(folder):
    images = dict.fromkeys(image for _, _, image, _, _ in TARGETS)
    for number, image in enumerate(images):
        targets = [
            {"bbox": box, "instruction": text, "data_type": kind, "data_source": "shop"}
            for _, kind, of, text, box in TARGETS if of == image
        ]  # fmt: skip
        write(
            folder / f"annotations/{number}.json", {"img_filename": image, "annotations": targets}
        )
    return "pixel_xywh"


def lines(folder):
    """As UGround evaluates version 1: ``platform`` is the group."""
    rows = [
        json.dumps({"bbox": box, "instruction": text, "data_type": kind, "platform": group,
                    "image": image})
        for group, kind, image, text, box in TARGETS
    ]  # fmt: skip
    (folder / "screenspot.jsonl").write_text("\n\n".join(rows))
    return "pixel_xywh"


def parquet(folder):
    """Parquet with the names of images that lie beside it."""
    columns = {
        "file_name": [image for _, _, image, _, _ in TARGETS],
        "bbox": [unit(box) for *_, box in TARGETS],
        "instruction": [text for _, _, _, text, _ in TARGETS],
        "data_type": [kind for _, kind, _, _, _ in TARGETS],
        "data_source": ["windows"] * len(TARGETS),
    }
    write_parquet(folder / "data/test-00000-of-00001.parquet", columns)
    return "unit_xyxy"


LAYOUTS = [version_1, one_file, version_2, by_showui, nested, lines, parquet]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_copy_gives_the_same_targets(folder, results, layout):
    frame = layout(folder)
    options = {"format_options": {"annotations": "*.jsonl"}} if layout is lines else {}
    manifest = lock_and_convert(
        results, "ss", folder, "screenspot", frame, max_reject_share=0, **options
    )
    check_sums(manifest, [])
    assert manifest["cells"] == manifest["groups"] == {
        "desktop/icon": 1, "desktop/text": 1, "mobile/icon": 1, "web/text": 1,
    }  # fmt: skip
    assert manifest["rows"]["in"] == manifest["elements"]["kept"] == len(TARGETS)
    samples = samples_of(results, "ss")
    found = {(sample["meta"]["cell"], sample["boxes"][0]["label"]): sample for sample in samples}
    for group, kind, image, text, box in TARGETS:
        sample = found[f"{group}/{kind}", text.strip()]
        assert sample["media"][0]["path"] == f"images/{image}"
        (target,) = sample["boxes"]
        assert target["kind"] == kind and sample["frame"] == FRAMES[frame][0]
        assert to_unit(target["xyxy"], sample["frame"], WIDTH, HEIGHT) == pytest.approx(unit(box))
        x, y = to_unit(sample["points"][0]["xy"], sample["frame"], WIDTH, HEIGHT)
        assert x == pytest.approx((unit(box)[0] + unit(box)[2]) / 2)
        assert y == pytest.approx((unit(box)[1] + unit(box)[3]) / 2)


@pytest.mark.parametrize("layout", [one_file, by_showui, lines])
def test_a_box_in_another_frame_is_rejected_and_never_guessed(folder, results, layout):
    layout(folder)
    options = {"format_options": {"annotations": "*.jsonl"}} if layout is lines else {}
    manifest = lock_and_convert(results, "ss", folder, "screenspot", "pixel_xyxy", **options)
    assert manifest["reasons"] == {"swapped_corners": 3}
    first = rejects_of(results, "ss")[0]
    assert first["reason"] == "swapped_corners" and "[910, 78, 44, 34]" in first["detail"]


def test_embedded_images(results, tmp_path):
    folder = tmp_path / "raw"
    data = [image_bytes(seed) for seed in range(2)]
    columns = {
        "file_name": ["pc_a.png", "mobile_b.png", "web_c.png", "other.png"],
        "bbox": [[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.4, 0.6], None, [0.1, 0.2, 0.3, 0.4]],
        "instruction": ["a", "b", "c", None],
        "data_type": ["text", "icon", "icon", "text"],
        "image": [embedded(data[0]), embedded(data[1]), embedded(data[0]), embedded(None)],
    }
    write_parquet(folder / "data/test-0.parquet", columns, rows=2)
    manifest = lock_and_convert(results, "ss", folder, "screenspot", "unit_xyxy")
    check_sums(manifest, rejects_of(results, "ss"))
    assert manifest["cells"] == {"desktop/text": 1, "mobile/icon": 1, "web/icon": 1}
    reasons = {reject["row"][-1]: reject["reason"] for reject in rejects_of(results, "ss")}
    assert reasons == {"1": "swapped_corners", "2": "bad_box", "3": "bad_row"}
    (sample,) = samples_of(results, "ss")
    assert sample["media"][0]["path"] == "data/test-0.parquet#0/image.png"
    assert (sample["media"][0]["width"], sample["meta"]["cell"]) == (120, "desktop/text")


def test_version_1_rows_of_uground(shared_data, results, tmp_path):
    source = shared_data / "uground_eval_meta/ScreenSpot/re_gpt-4o.jsonl"
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / source.name).write_bytes(source.read_bytes())
    name = "pc_ede36f9b-1154-4f76-b7f8-c15d7d3f9b6e.png"
    save(picture(1, (WIDTH, HEIGHT)), folder / "screenspot_imgs" / name)
    options = {"annotations": "*.jsonl"}
    manifest = lock_and_convert(
        results, "ss", folder, "screenspot", "pixel_xywh", format_options=options
    )
    check_sums(manifest, rejects_of(results, "ss"))
    assert manifest["cells"] == {"desktop/text": 87, "desktop/icon": 63}
    assert manifest["rows"]["in"] == 150 and set(manifest["reasons"]) == {"missing_image"}
    first = samples_of(results, "ss")[0]
    assert first["boxes"][0] == {"label": "close", "xyxy": [910, 78, 954, 112], "kind": "icon"}
    assert to_unit(first["boxes"][0]["xyxy"], "pixel", WIDTH, HEIGHT) == pytest.approx(
        [0.947917, 0.144444, 0.99375, 0.207407], abs=1e-6
    )


def test_version_2_rows_of_gui_actor(shared_data, results):
    source = shared_data / "screenspot_v2"
    raw = tree_bytes(source)
    manifest = lock_and_convert(results, "ss", source, "screenspot", "pixel_xyxy")
    rejects = rejects_of(results, "ss")
    check_sums(manifest, rejects)
    # The publication has 234 and 203 for the web; one row of each is not in this copy.
    assert manifest["cells"] == {
        "desktop/icon": 140, "desktop/text": 194, "web/icon": 202, "web/text": 233,
    }  # fmt: skip
    assert manifest["groups"] == {"web/icon": 2}
    assert manifest["rows"] == {"in": 769, "kept": 2, "rejected": 767}
    assert manifest["reasons"] == {"missing_image": 767}
    before = tree_bytes(results / "converted")
    lock_and_convert(results, "ss", source, "screenspot", "pixel_xyxy")
    assert tree_bytes(results / "converted") == before and tree_bytes(source) == raw


def test_versions_are_never_mixed(folder, results):
    version_1(folder)
    version_2(folder)
    with pytest.raises(DataError, match=r"versions 1 and 2.*format_options: {annotations"):
        lock_and_convert(results, "ss", folder, "screenspot", "pixel_xywh")
    for pattern, frame in (
        ("screenspot_*[!2].json", "pixel_xywh"),
        ("screenspot_*_v2.json", "pixel_xyxy"),
    ):
        options = {"annotations": pattern}
        manifest = lock_and_convert(
            results, "ss", folder, "screenspot", frame, max_reject_share=0, format_options=options
        )
        assert manifest["rows"]["kept"] == len(TARGETS)


def test_the_published_box_at_an_edge_is_clipped_and_counted(results, tmp_path):
    folder = tmp_path / "raw"
    save(picture(1, (2360, 1640)), folder / "images/mobile_02e9bl.png")
    row = {"img_filename": "mobile_02e9bl.png", "img_size": [2360, 1640], "ui_type": "icon",
           "instruction": "x", "group": "mobile"}  # fmt: skip
    boxes = [[2300, 10, 2361, 40], [2300, -1, 2360, 40], [2360, 10, 2361, 40], [2300, 9, 2363, 40]]
    write(folder / "screenspot_mobile_v2.json", [{**row, "bbox": box} for box in boxes])
    manifest = lock_and_convert(results, "ss", folder, "screenspot", "pixel_xyxy")
    assert manifest["reasons"] == {"zero_area": 1, "outside_image": 1}
    assert manifest["clipped"] == 2 and manifest["cells"] == {"mobile/icon": 4}
    assert [sample["boxes"][0]["xyxy"] for sample in samples_of(results, "ss")] == [
        [2300, 10, 2360, 40], [2300, 0, 2360, 40],
    ]  # fmt: skip


def pro(**fields):
    """A row of ScreenSpot-Pro."""
    return {
        "id": "word_windows_1",
        "img_filename": "word_windows/a.png",
        "bbox": [100, 20, 151, 40],
        "img_size": [WIDTH, HEIGHT],
        "instruction": "bold",
        "instruction_cn": "加粗",
        "ui_type": "icon",
        "application": "word",
        "platform": "windows",
        "group": "Office",
        **fields,
    }


def test_screenspot_pro_in_both_languages(results, tmp_path):
    folder = tmp_path / "raw"
    save(picture(1, (WIDTH, HEIGHT)), folder / "images/word_windows/a.png")
    (folder / "images/.DS_Store").touch()
    rows = [
        pro(),
        pro(bbox=[135, -1, 151, 19], ui_type="text"),
        pro(bbox=[100, 20, WIDTH + 1, 40], instruction_cn=None),
        pro(bbox=[100, 20, WIDTH + 3, 40]),
        pro(bbox=[100, 20, 100, 40]),
        pro(img_size=[1920, 1080]),
    ]
    write(folder / "annotations/word_windows.json", rows)
    write(folder / "annotations/._word_windows.json", "dropping")
    manifest = lock_and_convert(results, "en", folder, "screenspot", "pixel_xyxy")
    assert manifest["cells"] == {"Office/icon": 5, "Office/text": 1}
    assert manifest["reasons"] == {"outside_image": 1, "zero_area": 1, "size_mismatch": 1}
    assert manifest["clipped"] == 2
    boxes = [sample["boxes"][0] for sample in samples_of(results, "en")]
    assert [box["xyxy"] for box in boxes][1:] == [[135, 0, 151, 19], [100, 20, WIDTH, 40]]
    assert {box["label"] for box in boxes} == {"bold"}
    sample = samples_of(results, "en")[0]
    assert sample["meta"] == {
        "id": "word_windows_1", "application": "word", "platform": "windows", "group": "Office",
        "cell": "Office/icon",
    }  # fmt: skip
    manifest = lock_and_convert(
        results, "zh", folder, "screenspot", "pixel_xyxy", format_options={"language": "zh"}
    )
    assert manifest["reasons"]["bad_instruction"] == 1
    assert {sample["boxes"][0]["label"] for sample in samples_of(results, "zh")} == {"加粗"}


def test_groups_that_the_data_does_not_tell(results, tmp_path):
    folder = tmp_path / "raw"
    save(picture(1, (WIDTH, HEIGHT)), folder / "a.png")
    row = {"img_filename": "a.png", "bbox": [1, 2, 3, 4], "instruction": "x", "data_type": "text"}
    write(folder / "screenspot.json", [{**row, "platform": "shop", "data_source": "web"}])
    manifest = lock_and_convert(results, "ss", folder, "screenspot", "pixel_xywh")
    assert manifest["reasons"] == {"bad_row": 1} and manifest["cells"] == {}
    assert "format_options: {group: ...}" in rejects_of(results, "ss")[0]["detail"]
    manifest = lock_and_convert(
        results, "ss", folder, "screenspot", "pixel_xywh", format_options={"group": "kiosk"}
    )
    assert manifest["cells"] == {"kiosk/text": 1}


def test_rows_that_are_no_rows(folder, results):
    good = {"img_filename": "pc_1.png", "bbox": [1, 2, 3, 4], "instruction": "x",
            "data_type": "text"}  # fmt: skip
    rows = [
        json.dumps(good).encode(),
        b"{",
        b"7",
        json.dumps({**good, "instruction": None}).encode(),
        json.dumps({**good, "instruction": ["x"]}).encode(),
        json.dumps({**good, "instruction": "\ud800"}).encode(),
        b'{"instruction": "\xff"}',
        json.dumps({**good, "bbox": [1, 2, 3]}).encode(),
        json.dumps({**good, "bbox": [1, 2, float("nan"), 4]}).encode(),
        json.dumps({**good, "bbox": [[1], 2, 3, 4]}).encode(),
        json.dumps({**good, "bbox": None}).encode(),
        json.dumps({**good, "data_type": ["text"]}).encode(),
        json.dumps({**good, "img_filename": "../pc_1.png"}).encode(),
        json.dumps({**good, "img_filename": 3}).encode(),
        json.dumps({**good, "img_size": [960, "x"]}).encode(),
        json.dumps({**good, "bbox": ["1", "2", "3", "4"]}).encode(),
        json.dumps({"annotations": []}).encode(),
        json.dumps({"annotations": [good, 4, {**good, "bbox": 1}], "img_size": [1, 1]}).encode(),
    ]
    (folder / "rows.jsonl").write_bytes(b"\n".join(rows))
    manifest = lock_and_convert(
        results, "ss", folder, "screenspot", "pixel_xywh", format_options={"annotations": "*.jsonl"}
    )
    rejects = rejects_of(results, "ss")
    check_sums(manifest, rejects)
    assert [reject["row"].partition("#")[2] for reject in rejects] == [
        *(str(number) for number in range(1, 17) if number != 15), "17.0", "17.1", "17.2",
    ]  # fmt: skip
    assert [reject["reason"] for reject in rejects] == [
        "malformed_json", "bad_row", "bad_instruction", "bad_instruction", "bad_text",
        "bad_encoding", "bad_box", "bad_box", "bad_box", "bad_box", "bad_row", "unsafe_path",
        "bad_row", "bad_size", "bad_row", "size_mismatch", "bad_row", "size_mismatch",
    ]  # fmt: skip


def test_wrong_options_and_wrong_files(folder, results):
    one_file(folder)
    for options, message in (
        ({"language": "de"}, "language: 'de'"),
        ({"language": ["en"]}, "language"),
        ({"group": 3}, "group: 3"),
        ({"annotations": 3}, "annotations: 3 is no glob"),
        ({"frame": "pixel_xyxy"}, "no option frame"),
    ):
        with pytest.raises(ConfigError, match=message):
            lock_and_convert(
                results, "ss", folder, "screenspot", "pixel_xywh", format_options=options
            )
    (folder / "screenspot.json").rename(folder / "screenspot.parquet")
    with pytest.raises(DataError, match=r"screenspot\.parquet"):
        lock_and_convert(results, "ss", folder, "screenspot", "pixel_xywh")
