"""LLaVA rows: what they claim, how their files are read, where their media are found."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raw_datasets import (
    check_sums,
    lock_and_convert,
    picture,
    rejects_of,
    rows_in,
    samples_of,
    save,
)
from shardline import conversations, row_files
from shardline.errors import ConfigError, DataError
from shardline.files import canonical_json
from shardline.formats import llava
from shardline.media_paths import MediaFinder
from shardline.rows import Rejection, Row

MIB = 1 << 20


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    for number in range(3):
        save(picture(number), folder / f"a/{number}.png")
    return folder


def talk(*texts, **fields):
    """A row of alternating questions and answers."""
    speakers = ("human", "gpt")
    turns = [{"from": speakers[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": "7", **fields, "conversations": turns}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(folder, **options):
    return list(rows_in(llava, folder, **options))


def read_one(folder, record, **options):
    write_lines(folder / "rows.jsonl", [record])
    (row,) = read(folder, annotations="rows.jsonl", **options)
    return row


def reasons(rows):
    return Counter(row.rejection.reason if row.rejection else "kept" for row in rows)


def text(value):
    return {"type": "text", "text": value}


EXAMPLES = settings(max_examples=60)
IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def test_rows_of_all_kinds_become_samples(raw, results):
    rows = [
        talk("Hello", "Hi."),  # the first row, which has no image, decides nothing for the rest
        talk("<image>\nWhat?", "A cat.", image="a/1.png"),
        talk("<image> or\n<image>?", "Both.", "Sure?", "Yes.\n", image=["a/2.png", "a/0.png"]),
        {**talk("What?\n<image>", "A cat.", image="a/1.png"), "id": 7},
        {key: value for key, value in talk("Hello", "Hi.", image=None).items() if key != "id"},
        talk("<image>", "A cap\u00e9.", image=["a/1.png"]),
    ]
    write_lines(raw / "rows.jsonl", rows)
    manifest = lock_and_convert(results, "d", raw, "llava", None, max_reject_share=0)
    assert manifest["rows"] == {"in": 6, "kept": 6, "rejected": 0}
    samples = samples_of(results, "d")
    assert [sample["id"] for sample in samples] == [f"d:rows.jsonl#{n}" for n in range(6)]
    assert [[medium["path"] for medium in sample["media"]] for sample in samples] == [
        [],
        ["a/1.png"],
        ["a/2.png", "a/0.png"],
        ["a/1.png"],
        [],
        ["a/1.png"],
    ]
    assert [sample["meta"].get("id") for sample in samples] == ["7", "7", "7", "7", None, "7"]
    assert samples[1]["messages"] == [
        {"role": "user", "content": [IMAGE, text("\nWhat?")]},
        {"role": "assistant", "content": [text("A cat.")]},
    ]
    assert [message["content"] for message in samples[2]["messages"]] == [
        [IMAGE, text(" or\n"), IMAGE, text("?")],
        [text("Both.")],
        [text("Sure?")],
        [text("Yes.\n")],
    ]
    assert samples[5]["messages"][0]["content"] == [IMAGE]


def test_every_way_a_row_can_be_wrong(raw, results):
    good = talk("<image>What?", "A cat.", image="a/1.png")
    cases = [
        (good, "kept"),
        (talk("<image><image>What?", "A cat.", image="a/1.png"), "placeholder_mismatch"),
        (talk("<image>What?", "A cat."), "placeholder_mismatch"),
        (talk("<image>What?", "A cat.", image=""), "placeholder_mismatch"),
        (talk("<image>What?", "A cat.", image=["a/1.png", "a/2.png"]), "placeholder_mismatch"),
        (talk("What?", "A cat.", image=["a/1.png", "a/2.png"]), "placeholder_mismatch"),
        (talk("<video>What?", "A cat.", image="a/1.png"), "placeholder_mismatch"),
        (talk("What?", "<image>", image="a/1.png"), "misplaced_placeholder"),
        (talk("<image>What?", " \n", image="a/1.png"), "empty_answer"),
        (talk("<image>What?", "A cat.", " ", "Yes.", image="a/1.png"), "empty_question"),
        (talk("", "A cat."), "empty_question"),
        (talk("<image>What?", image="a/1.png"), "no_answer"),
        (talk("What?", "A cat.", "<image>And?", image="a/1.png"), "no_answer"),
        (talk(), "no_question"),
        ({"conversations": [{"from": "gpt", "value": "Hi."}]}, "no_question"),
        ({"conversations": good["conversations"][::-1], "image": "a/1.png"}, "no_answer"),
        ({"conversations": [*talk("a", "b")["conversations"][:2]] * 2, "id": 1}, "kept"),
        ({"conversations": [*talk("a", "b")["conversations"], {"from": "gpt", "value": "c"}]}, 0),
        ({"conversations": [{"from": "tool", "value": "a"}]}, "unknown_role"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "unknown_role"),
        ({"conversations": [{"from": "human"}]}, "bad_turn"),
        ({"conversations": [{"from": "human", "value": 5}]}, "bad_turn"),
        ({"conversations": [{"from": "human", "value": None}]}, "bad_turn"),
        ({"conversations": ["Hello"]}, "bad_turn"),
        ({"conversations": {"from": "human", "value": "a"}}, "bad_turn"),
        ({"conversations": None}, "no_conversation"),
        ({}, "no_conversation"),
        ([good], "bad_row"),
        ("text", "bad_row"),
        (None, "bad_row"),
        (talk("<image>", "A.", image=5), "bad_media"),
        (talk("<image>", "A.", image=float("nan")), "bad_media"),
        (talk("<image>", "A.", image=[None]), "bad_media"),
        (talk("<image>", "A.", image=[["a/1.png"]]), "bad_media"),
        (talk("<image>", "A.", image="a\0.png"), "bad_media"),
        (talk("<image>", "A.", image="A" * 5000), "bad_media"),
        (talk("<image>", "A.", image="b" * 300 + "/1.png"), "bad_media"),
        (talk("<image>", "A.", image="x.parquet#0/image.png"), "bad_media"),
        (talk("<image>", "A.", image="a/1.png", images=["a/2.png"]), "bad_media"),
        (talk("<image>", "A.", image="a/1.png", images=["a/1.png"]), "kept"),
        (talk("<image>", "A.", image="https://host/1.png"), "remote_media"),
        (talk("<image>", "A.", image="s3://bucket/1.png"), "remote_media"),
        (talk("<image><image>", "A.", image="https://host/1.png"), "remote_media"),
        (talk("<image>", "A.", image="data:image/png;base64,iVBORw0KGgo="), "embedded_media"),
        (talk("<image>", "A.", image={"bytes": "iVBORw0KGgo=", "path": None}), "embedded_media"),
        (talk("<image>", "A.", image={"bytes": None, "path": "a/1.png"}), "kept"),
        (talk("<image>", "A.", image="../a/1.png"), "unsafe_path"),
        (talk("<image>", "A.", image="a/../../../etc/passwd"), "unsafe_path"),
        (talk("<image>", "A.", image="/etc/passwd"), "unsafe_path"),
        (talk("<image>", "A.", image="a/gone.png"), "missing_image"),
        (talk("<image>", "A.", image="a"), "unreadable_image"),
        (talk("<image>", "A.", image="."), "unreadable_image"),
        (talk("a", "b\ud800"), "bad_text"),
        (talk("Listen", "A.", audio="a.wav"), "unsupported_media"),
    ]
    write_lines(raw / "rows.jsonl", [row for row, _ in cases])
    manifest = lock_and_convert(results, "d", raw, "llava", None)
    rejects = rejects_of(results, "d")
    check_sums(manifest, rejects)
    found = {int(reject["row"].rpartition("#")[2]): reject["reason"] for reject in rejects}
    expected = [reason or "two_answers" for _, reason in cases]
    assert [found.get(number, "kept") for number in range(len(cases))] == expected


def test_turns_that_are_joined_or_left_out_are_counted(raw):
    record = {
        "image": "a/1.png",
        "conversations": [
            {"from": "gpt", "value": "How can I help?"},
            {"from": "human", "value": "<image>"},
            {"from": "human", "value": "What is it?"},
            {"from": "gpt", "value": "A cat."},
            {"from": "human", "value": "Thanks."},
        ],
    }
    row = read_one(raw, record)
    assert row.meta == {"dropped_answers": 1, "joined_questions": 1, "dropped_questions": 1}
    assert row.messages == [
        {"role": "user", "content": [IMAGE, text("\n"), text("What is it?")]},
        {"role": "assistant", "content": [text("A cat.")]},
    ]


def test_the_only_medium_that_nothing_stands_for_goes_in_front(raw):
    row = read_one(raw, talk("What?", "A cat.", "Why?", "So.", image="a/1.png"))
    assert row.messages[0]["content"] == [IMAGE, text("What?")] and len(row.media) == 1
    row = read_one(raw, talk("", "A cat.", video="v.mp4"))
    assert row.messages[0]["content"] == [VIDEO]


def test_image_stands_for_videos_where_there_is_no_image(raw):
    row = read_one(raw, talk("<image>\nWhat?", "A film.", video="v.mp4"))
    assert row.messages[0]["content"] == [VIDEO, text("\nWhat?")]
    assert [(medium.kind, medium.path) for medium in row.media] == [("video", "v.mp4")]
    both = talk("<video> like <image>?", "Yes.", video="v.mp4", image="a/1.png")
    assert [medium.kind for medium in read_one(raw, both).media] == ["video", "image"]
    both = talk("<image> like <image>?", "Yes.", video="v.mp4", image="a/1.png")
    assert read_one(raw, both).rejection.reason == "placeholder_mismatch"


@EXAMPLES
@given(st.lists(st.sampled_from(["<image>", "<video>", "\n", " ", "a<b", "\u00e9", "</image>"])))
def test_text_and_order_survive(tmp_path_factory, pieces):
    folder = tmp_path_factory.mktemp("raw")
    asked = "".join(pieces) + "?"
    images, videos = asked.count("<image>"), asked.count("<video>")
    record = talk(
        asked,
        "Yes.",
        image=[f"{n}.png" for n in range(images)],
        video=[f"{n}.mp4" for n in range(videos)],
    )
    row = read_one(folder, record)
    parts = row.messages[0]["content"]
    assert "".join(part.get("text", f"<{part['type']}>") for part in parts) == asked
    kinds = [part["type"] for part in parts if part["type"] != "text"]
    assert [medium.kind for medium in row.media] == kinds
    paths = [medium.path for medium in row.media if medium.kind == "image"]
    assert paths == [f"{n}.png" for n in range(images)]


def test_real_rows_without_a_conversation(shared_data):
    options = {"annotations": "**/*.jsonl"}
    assert reasons(read(shared_data / "llava_eval_jsonl", **options)) == {"no_conversation": 85}
    assert reasons(read(shared_data / "auroracap_vdc_rows")) == {"no_conversation": 75}


def test_real_captions_of_data_juicer(shared_data, results):
    folder = shared_data / "data_juicer_multimodal"
    rows = read(folder)
    assert reasons(rows) == {"kept": 9}
    assert Counter(row.media[0].kind for row in rows) == {"image": 3, "video": 6}
    assert rows[4].messages == [
        {"role": "user", "content": [VIDEO]},
        {"role": "assistant", "content": [text("\u4e00\u6bb5\u5361\u901a")]},
    ]
    images = {"annotations": "demos/data/*images.jsonl"}
    manifest = lock_and_convert(
        results, "d", folder, "llava", None, format_options=images, max_reject_share=0
    )
    assert manifest["rows"]["kept"] == 3
    sample = samples_of(results, "d")[1]
    assert sample["media"][0]["path"] == "tests/ops/data/img2.jpg"
    assert sample["messages"][1]["content"] == [text("A bus.")]


@pytest.mark.parametrize(
    ("caption", "result"),
    [
        ("<__dj__image>\nA bus. <|__dj__eoc|>", ([IMAGE], "A bus.")),
        (" <__dj__image> <__dj__video> A bus.\nRed.", ([IMAGE, VIDEO], "A bus.\nRed.")),
        ("A bus. <__dj__image>", "interleaved_text"),
        ("<__dj__image> A bus. <|__dj__eoc|> A car. <|__dj__eoc|>", "interleaved_text"),
        ("<__dj__image> <|__dj__eoc|>", "empty_answer"),
        ("A bus.", "no_conversation"),
    ],
)
def test_captions(raw, caption, result):
    videos = ["v.mp4"] if "video" in caption else []
    row = read_one(raw, {"images": ["a/1.png"], "videos": videos, "text": caption})
    if isinstance(result, str):
        assert row.rejection.reason == result
    else:
        assert (row.messages[0]["content"], row.messages[1]["content"][0]["text"]) == result


SPEAKERS = st.sampled_from(["human", "gpt", "user", "assistant", "system", "tool"])
TEXTS = st.sampled_from(
    ["<image>\nWhat?", "<image>\n", "<image>", "<image>\n ", "Why?", " a < b", " ", "", "<image>x"]
)


@EXAMPLES
@given(
    turns=st.lists(st.tuples(SPEAKERS, TEXTS), max_size=4),
    image=st.sampled_from([None, "a/1.png", "/a/1.png", "", ["a/1.png"]]),
)
def test_the_short_way_of_the_commonest_rows_follows_the_rules(turns, image):
    record = {"image": image}
    if (messages := conversations._usual_messages(record, turns)) is None:
        return
    row = Row(file="rows.jsonl", index=0)
    notes = conversations._fill_by_the_rules(row, record, turns, MediaFinder(Path("/nowhere")))
    assert (row.messages, notes) == (messages, {})
    assert [medium.path for medium in row.media] == ([image] if image else [])


def test_a_caption_of_its_own(raw):
    row = read_one(raw, {"video": "v.mp4", "caption": "A ship."})
    assert (row.messages[0]["content"], row.messages[1]["content"]) == ([VIDEO], [text("A ship.")])
    row = read_one(raw, {"images": ["a/1.png", "a/1.png"], "caption": "Two."})
    assert row.messages[0]["content"] == [IMAGE, IMAGE]
    assert read_one(raw, {"caption": "Of nothing."}).rejection.reason == "no_conversation"


def test_annotation_files_of_all_folders_are_read_and_small_ones_share_a_shard(raw, results):
    for number in range(4):
        (raw / "deep" / "er").mkdir(parents=True, exist_ok=True)
        write_lines(raw / f"{number}.jsonl", [talk("<image>?", "1", image="a/1.png")])
        write_lines(raw / f"deep/er/{number}.jsonl", [talk("<image>?", "2", image="a/1.png")])
    manifest = lock_and_convert(results, "d", raw, "llava", None)
    assert manifest["rows"] == {"in": 8, "kept": 8, "rejected": 0}
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4]


def test_a_json_array_is_the_same_rows_as_json_lines(raw):
    rows = [talk("<image>?", f"{n}", image="a/1.png") for n in range(5)]
    write_lines(raw / "b.jsonl", rows)
    (raw / "c.json").write_text(json.dumps(rows, indent=1))
    (raw / "d.json").write_text("\n".join(json.dumps(row) for row in rows))
    (raw / "e.json").write_text(json.dumps(rows[0], indent=1))
    found = [(row.file, row.index, row.messages) for row in read(raw)]
    messages = [row[2] for row in found[:5]]
    assert found == [
        *(("b.jsonl", n, messages[n]) for n in range(5)),
        *(("c.json", n, messages[n]) for n in range(5)),
        *(("d.json", n, messages[n]) for n in range(5)),
        ("e.json", 0, messages[0]),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4)
    ),
    max_leaves=12,
)


@EXAMPLES
@given(st.lists(JSON, max_size=6), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 9))
def test_arrays_are_read_in_pieces(tmp_path_factory, values, indent, is_ascii, chunk):
    path = tmp_path_factory.mktemp("raw") / "a.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=is_ascii), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, "CHUNK", chunk)
        found = list(row_files.read_rows(path.parent, path.name))
    assert found == list(enumerate(values))


def test_malformed_lines_are_rejected_and_the_others_kept(shared_data, tmp_path):
    good = talk("a", "b")
    for source in sorted((shared_data / "malformed_json").iterdir()):
        data = source.read_bytes().removesuffix(b"\n")
        lines = [json.dumps(good).encode(), *data.split(b"\n"), json.dumps(good).encode()]
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
        first, *between, last = read(tmp_path, annotations="rows.jsonl")
        assert first.rejection is None and last.rejection is None, source.name
        assert last.index == len(lines) - 1
        assert all(row.rejection for row in between), source.name
        if source.name.startswith("n_"):
            found = {row.rejection.reason for row in between}
            assert found & {"malformed_json", "bad_encoding"}, source.name


def test_malformed_files_name_row_and_line(shared_data, tmp_path):
    for source in sorted((shared_data / "malformed_json").iterdir()):
        (tmp_path / "rows.json").write_bytes(source.read_bytes())
        try:
            rows = read(tmp_path)
        except DataError as error:
            assert "rows.json is not valid JSON: row " in str(error), source.name
            assert not source.name.startswith("y_")
        else:
            assert all(row.rejection for row in rows), source.name
    (tmp_path / "rows.json").write_text(json.dumps([talk("a", "b")] * 3, indent=1)[:-30])
    rows = rows_in(llava, tmp_path)
    assert [next(rows).index, next(rows).index] == [0, 1]
    with pytest.raises(DataError, match=r"row 2, line 28"):
        next(rows)


def test_lines_that_are_no_text(tmp_path):
    lines = [
        b"\xef\xbb\xbf" + json.dumps(talk("a", "b")).encode(),
        b"",
        json.dumps(talk("a", "caf\u00e9"), ensure_ascii=False).encode("latin-1"),
        b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b"}",
        json.dumps(talk("a", "\U0001f600")).encode() + b"\r",
        json.dumps(talk("a", "b")).encode("utf-16"),
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    rows = read(tmp_path)
    found = {row.index: row.rejection.reason if row.rejection else "kept" for row in rows}
    assert [found.get(number) for number in range(6)] == [
        "kept",
        None,
        "bad_encoding",
        "malformed_json",
        "malformed_json",
        "kept",
    ]
    assert "line 3, byte" in rows[1].rejection.detail
    assert set(found.values()) <= {"kept", "bad_encoding", "malformed_json"}


def test_a_line_of_200_mb_is_skipped_in_little_memory(tmp_path):
    good = json.dumps(talk("a", "b")).encode() + b"\n"
    with open(tmp_path / "rows.jsonl", "wb") as file:
        file.write(good)
        file.seek(200 * MIB)  # a hole, which reads as zeros
        file.write(b"\n" + good)
    tracemalloc.start()
    try:
        assert reasons(read(tmp_path)) == {"kept": 2, "row_too_long": 1}
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_memory_does_not_grow_with_the_rows(tmp_path, name):
    row = json.dumps(talk("a" * 1000, "b" * 1000))
    separator = "\n" if name.endswith("l") else ","
    body = separator.join([row] * 5_000)
    (tmp_path / name).write_text(body if separator == "\n" else f"[{body}]")
    tracemalloc.start()
    try:
        assert sum(row.rejection is None for row in rows_in(llava, tmp_path)) == 5_000
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB  # of 10 in the file
    finally:
        tracemalloc.stop()


def test_files_with_a_builders_folders_around_them(tmp_path):
    base = "language/set/"
    for path in ("a/1.png", "mnt/builder/a/2.png", "mnt/builder/b/3.png", "other/b/3.png"):
        save(picture(1), tmp_path / base / path)
    save(picture(1), tmp_path / "language/next/c/4.png")
    names = ["a/1.png", "a/2.png", "/srv/x/a/2.png", "b/3.png", "c/4.png", "2.png", "a/5.png"]
    rows = [talk("<image>", "A.", image=name) for name in names]
    write_lines(tmp_path / base / "set.jsonl", rows)
    found = [
        row.rejection.reason if row.rejection else row.media[0].path.removeprefix(base)
        for row in read(tmp_path)
    ]
    assert found == [
        "a/1.png",
        "mnt/builder/a/2.png",
        "unsafe_path",  # absolute, and it would take leaving out and putting in folders
        "ambiguous_media",
        "c/4.png",  # missing: another set's file is not this one's
        "2.png",  # missing: a name alone is found in no other folder
        "a/5.png",
    ]


def test_names_from_above_the_data(tmp_path):
    save(picture(1), tmp_path / "images/train/1.png")
    save(picture(1), tmp_path / "train/2.png")
    (tmp_path / "images/val").mkdir()
    cases = {
        "images/train/1.png": "images/train/1.png",
        "train/1.png": "images/train/1.png",
        "coco/images/train/1.png": "images/train/1.png",
        "/data/coco/images/train/1.png": "images/train/1.png",
        "file:///data/coco/train/2.png": "train/2.png",
        "//data//coco//train//2.png": "train/2.png",
        " ./train/2.png": "train/2.png",
        "images/val/train/2.png": "images/val/train/2.png",  # missing: images is there
        "/data/images/train/2.png": "unsafe_path",  # so is images/train
        "/data/2.png": "unsafe_path",
    }
    finder = MediaFinder(tmp_path)
    for name, expected in cases.items():
        try:
            assert finder.medium("image", name, ".").path == expected, name
        except Rejection as rejection:
            assert rejection.reason == expected, name
    finder = MediaFinder(tmp_path, ["images"], "/data")
    assert finder.medium("image", "/data/train/1.png", "meta").path == "images/train/1.png"
    assert finder.medium("image", "/data/train/3.png", "meta").path == "images/train/3.png"
    assert finder.medium("image", "/database/train/2.png", ".").path == "train/2.png"


def test_folders_that_are_links_in_a_circle(raw):
    (raw / "a/again").symlink_to(raw, target_is_directory=True)
    row = read_one(raw, talk("<image>", "A.", image="gone/1.png"))
    assert row.media[0].path == "gone/1.png"


def test_options(raw):
    write_lines(raw / "deep/er/x.jsonl", [talk("<image>", "A.", image="1.png")])
    (raw / "dataset_info.json").write_text("{}")
    assert read(raw)[0].media[0].path == "deep/er/1.png"
    assert read(raw, media_folders=["a"])[0].media[0].path == "a/1.png"
    for options in (
        {"media_folders": ["../x"]},
        {"media_folders": ["/x"]},
        {"media_folders": "a"},
        {"media_folders": [1]},
        {"prefix": 1},
        {"glob": "a"},
        {"annotations": 1},
        {"annotations": "../*.jsonl"},
    ):
        with pytest.raises(ConfigError):
            read(raw, **options)
    with pytest.raises(DataError, match="annotations"):
        read(raw / "a")


def test_parquet_rows_with_embedded_images(tmp_path, results):
    folder = tmp_path / "raw"
    save(picture(3), folder / "a.png")
    data = (folder / "a.png").read_bytes()
    images = [{"bytes": data, "path": "x.png"}, None, {"bytes": None, "path": "a.png"}]
    turns = [talk("<image>?", "A.")["conversations"], talk("a", "b")["conversations"]]
    table = pa.table(
        {"id": ["1", "2", "3"], "image": images, "conversations": [turns[0], turns[1], turns[0]]}
    )
    (folder / "data").mkdir()
    pq.write_table(table, folder / "data/train-0.parquet")
    manifest = lock_and_convert(results, "d", folder, "llava", None, max_reject_share=0)
    assert manifest["rows"]["kept"] == 3
    embedded, nothing, named = samples_of(results, "d")
    assert embedded["media"][0]["path"] == "data/train-0.parquet#0/image.png"
    assert embedded["media"][0]["sha256"] == named["media"][0]["sha256"]
    assert nothing["media"] == [] and named["media"][0]["path"] == "a.png"


@EXAMPLES
@given(st.lists(JSON, max_size=3), JSON, JSON)
def test_no_row_stops_the_rest(tmp_path_factory, turns, image, value):
    folder = tmp_path_factory.mktemp("raw")
    turns = [*turns, {"from": "human", "value": value}, {"from": "gpt", "value": "A."}]
    write_lines(folder / "rows.jsonl", [{"conversations": turns, "image": image}, value])
    for row in read(folder):
        assert row.rejection or canonical_json(row.messages)
        parts = [part for message in row.messages for part in message["content"]]
        assert sum(part["type"] != "text" for part in parts) == len(row.media)
