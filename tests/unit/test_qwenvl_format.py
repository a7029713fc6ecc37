"""Rows of the QwenVL framework, ms-swift and LLaMA-Factory in all their layouts."""

from __future__ import annotations

import json
from collections import Counter

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
from shardline.files import canonical_json
from shardline.formats import qwenvl

EXAMPLES = settings(max_examples=60)
IMAGE, VIDEO = {"type": "image"}, {"type": "video"}
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def text(value):
    return {"type": "text", "text": value}


def read(folder, **options):
    return list(rows_in(qwenvl, folder, **options))


def read_one(folder, record):
    (folder / "rows.jsonl").write_text(json.dumps(record))
    (row,) = read(folder)
    return row


def outcome(row):
    """The reason, or role and content of each message with tags for media, and the media."""
    if row.rejection:
        return row.rejection.reason
    said = [
        (
            message["role"],
            "".join(part.get("text", f"<{part['type']}>") for part in message["content"]),
        )
        for message in row.messages
    ]
    return said, [medium.path for medium in row.media]


def reasons(rows):
    return Counter(row.rejection.reason if row.rejection else "kept" for row in rows)


def test_the_real_demo_of_qwenvl(shared_data, results):
    folder = shared_data / "qwen_vl_finetune_demo"
    rows = read(folder)
    assert reasons(rows) == {"kept": 6}
    assert [(row.name, row.media[0].path) for row in rows] == [
        ("demo/single_images.json#0", "demo/images/10095.png"),
        ("demo/single_images.json#1", "demo/images/10095.png"),
        ("demo/single_images.json#2", "demo/images/10149.png"),
        ("demo/video.json#0", "demo/v_7bUu05RIksU.mp4"),
        ("demo/video.json#1", "demo/v_TpB_zMG3XBA.mp4"),
        ("demo/video.json#2", "demo/videos/v_rBMQFpHspmo.mp4"),
    ]
    assert rows[0].messages[0]["content"] == [
        text("Is the value of Favorable 38 in 2015?\n"),
        IMAGE,
    ]
    assert [row.media[0].kind for row in rows] == ["image"] * 3 + ["video"] * 3
    # The same from the folder below, where the rows' paths have one folder more.
    below = read(folder / "demo")
    assert [f"demo/{row.media[0].path}" for row in below] == [row.media[0].path for row in rows]
    assert [row.messages for row in below] == [row.messages for row in rows]
    images = {"annotations": "demo/single_images.json"}
    manifest = lock_and_convert(
        results, "d", folder, "qwenvl", None, format_options=images, max_reject_share=0
    )
    assert manifest["rows"] == {"in": 3, "kept": 3, "rejected": 0}


def test_the_real_rows_of_ms_swift(shared_data, results):
    folder = shared_data / "ms_swift_rows"
    manifest = lock_and_convert(results, "d", folder, "qwenvl", None)
    assert manifest["rows"] == {"in": 45, "kept": 31, "rejected": 14}
    assert manifest["reasons"] == {"remote_media": 8, "no_question": 6}
    rejects = rejects_of(results, "d")
    check_sums(manifest, rejects)
    rejected = {name: [] for name in ("multi_modal_1", "multi_modal_2", "multi_modal_3")}
    for reject in rejects:
        if reject["reason"] == "remote_media":
            file, _, number = reject["row"].partition(".jsonl#")
            rejected[file].append(int(number))
    assert list(rejected.values()) == [[0, 1], [0, 1, 2], [0, 1, 2]]
    found = {}
    for sample in samples_of(results, "d"):
        file = sample["id"].removeprefix("d:").partition("#")[0]
        found.setdefault(file, []).append(sample["messages"])
    assert found["chatml.jsonl"] == found["conversations.jsonl"]
    assert found["swift_multi.json"] == found["swift_multi.jsonl"]
    assert found["swift_single.csv"] == found["swift_single.jsonl"]
    assert found["alpaca2.csv"][1] == found["alpaca.csv"][1] == found["alpaca.jsonl"][1]
    assert found["sharegpt.jsonl"][0] == found["chatml.jsonl"][0]
    said = [(message["role"], message["content"]) for message in found["alpaca.jsonl"][0]]
    assert said == [
        ("system", [text("system123")]),
        ("user", [text("aaaaa")]),
        ("assistant", [text("bbbbb")]),
        ("user", [text("11111\n22222")]),
        ("assistant", [text("33333")]),
    ]
    assert found["alpaca.csv"][0][2]["content"] == [text("3.3")]


def test_the_real_demo_of_llama_factory(shared_data, results):
    folder = shared_data / "llama_factory_mllm_demo"
    rows = read(folder)
    assert reasons(rows) == {"kept": 9}
    videos = [row.media[0].path for row in rows if row.media[0].kind == "video"]
    assert videos == [f"mllm_demo_data/{name}" for name in ("1.mp4", "2.avi", "3.mp4")]
    images = {"annotations": "mllm_demo.json"}
    manifest = lock_and_convert(
        results, "d", folder, "qwenvl", None, format_options=images, max_reject_share=0
    )
    assert manifest["rows"]["kept"] == 6
    first = samples_of(results, "d")[0]
    assert [medium["path"] for medium in first["media"]] == ["mllm_demo_data/1.jpg"] * 2
    assert first["messages"][2]["content"] == [text("What are they doing?"), IMAGE]


def test_packs_are_taken_apart(tmp_path, results):
    folder = tmp_path / "raw"
    save(picture(1), folder / "1.png")
    seen = {"image": "1.png", "conversations": [{"from": "human", "value": "<image>?"}, TALK[1]]}
    spoken = {"messages": TALK}
    packs = [[seen, spoken], spoken, [], [seen], [5, [spoken], {"messages": []}]]
    (folder / "packed.json").write_text(json.dumps(packs))
    (folder / "packed.jsonl").write_text("\n".join(json.dumps(pack) for pack in packs))
    manifest = lock_and_convert(results, "d", folder, "qwenvl", None, shard_rows=3)
    check_sums(manifest, rejects_of(results, "d"))
    assert manifest["rows"] == {"in": 16, "kept": 8, "rejected": 8}
    kept = [sample["id"] for sample in samples_of(results, "d")]
    names = ["0.0", "0.1", "1", "3.0"]
    assert kept == [f"d:packed.{ending}#{name}" for ending in ("json", "jsonl") for name in names]
    packs = [sample["meta"].get("pack", "") for sample in samples_of(results, "d")][:4]
    assert packs == ["packed.json#0", "packed.json#0", "", "packed.json#3"]
    found = [(reject["row"], reject["reason"]) for reject in rejects_of(results, "d")][:4]
    assert found == [
        ("packed.json#2", "bad_row"),
        ("packed.json#4.0", "bad_row"),
        ("packed.json#4.1", "bad_row"),
        ("packed.json#4.2", "no_question"),
    ]


GROUNDED = '{"bbox_2d": [12, 30, 400, 512], "label": "the <cat>"}'
PART = {"type": "text", "text": "What is it?"}


def said(question, *media, answer="b", before=()):
    """The outcome of a conversation that ends in this question and answer."""
    return [*before, ("user", question), ("assistant", answer)], list(media)


A_B = said("a")
SYSTEM_A_B = said("a", before=[("system", "s")])


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": TALK}, A_B),
        ({"messages": None, "conversations": TALK}, A_B),
        ({"conversation": [{"human": "a", "assistant": "b"}]}, A_B),
        ({"conversation": [{"user": "a", "bot": "b"}]}, A_B),
        ({"messages": json.dumps(TALK)}, A_B),
        ({"messages": TALK, "query": "ignored", "response": "ignored"}, A_B),
        ({"messages": [{**TALK[0], "from": None, "value": None}, TALK[1]]}, A_B),
        ({"query": "a", "response": "b", "history": None, "images": []}, A_B),
        ({"prompt": "a", "answer": "b"}, A_B),
        ({"instruction": "", "input": "a", "output": "b"}, A_B),
        (
            {"query": "a", "response": "b", "history": '[["c", "d"]]'},
            said("a", before=[("user", "c"), ("assistant", "d")]),
        ),
        ({"system": "s", "messages": TALK}, SYSTEM_A_B),
        ({"system": "", "messages": TALK}, A_B),
        ({"system": "s", "messages": [{"role": "system", "content": "s"}, *TALK]}, SYSTEM_A_B),
        (
            {"system": "s", "messages": [{"role": "system", "content": "t"}, *TALK]},
            "misplaced_system",
        ),
        ({"messages": [*TALK, {"role": "system", "content": "s"}]}, "misplaced_system"),
        ({"system": 5, "messages": TALK}, "bad_turn"),
        ({"query": "a", "response": ""}, "empty_answer"),
        ({"query": "a", "response": ["b"]}, "bad_turn"),
        ({"query": 5, "response": "b"}, "bad_turn"),
        ({"instruction": 5, "output": "b"}, "bad_turn"),
        ({"query": "a"}, "no_answer"),
        ({"query": "a", "response": "b", "history": [["c"]]}, "bad_turn"),
        ({"query": "a", "response": "b", "history": "c"}, "bad_turn"),
        ({"query": "a", "response": "b", "history": 5}, "bad_turn"),
        ({"messages": "a"}, "bad_turn"),
        ({"messages": '[{"role": "user", "content": "\\ud800"}]'}, "bad_text"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "unknown_role"),
        ({"conversation": [{"human": "a"}]}, "bad_turn"),
        ({"text": "a"}, "no_conversation"),
        ({"query": "a", "response": "b", "images": "https://host/1.jpg"}, "remote_media"),
        ({"query": "", "response": "b", "image": "1.png"}, said("<image>", "1.png")),
        ({"query": "<img>1.png</img>a", "response": "b"}, said("<image>a", "1.png")),
        ({"query": "<video>v.mp4</video>", "response": "b"}, said("<video>", "v.mp4")),
        ({"query": "a", "response": "b", "images": '["1.png"]'}, said("<image>a", "1.png")),
        (
            {"query": "a", "response": "b", "images": [{"path": "1.png", "bytes": None}]},
            said("<image>a", "1.png"),
        ),
        ({"query": "a", "response": "b", "images": [["1.png", "2.png"]]}, "bad_media"),
        ({"query": "<audio>", "response": "b", "audios": ["a.wav"]}, "unsupported_media"),
        (
            {"query": "<image>?", "response": GROUNDED, "image": "1.png"},
            said("<image>?", "1.png", answer=GROUNDED),
        ),
        ({"query": "a", "response": "<bbox>", "objects": {"bbox": [[1, 2]]}}, "unfilled_boxes"),
        ({"query": "a", "response": "<bbox>", "objects": {}}, said("a", answer="<bbox>")),
    ],
)
def test_layouts(tmp_path, record, expected):
    assert outcome(read_one(tmp_path, record)) == expected


@pytest.mark.parametrize(
    ("content", "images", "expected"),
    [
        ([PART], [], said("What is it?")),
        ([{"type": "image"}, PART], ["0.png"], said("<image>What is it?", "0.png")),
        ([{"type": "image", "image": None, "text": None}], ["0.png"], said("<image>", "0.png")),
        (["<image>", "What?"], ["0.png"], said("<image>What?", "0.png")),
        ([PART, {"type": "image", "image": "1.png"}], [], said("What is it?<image>", "1.png")),
        ([{"image": "1.png"}, {"text": "?"}], [], said("<image>?", "1.png")),
        ([{"type": "image_url", "image_url": {"url": "1.png"}}], [], said("<image>", "1.png")),
        ([{"type": "video", "video": "v.mp4"}], [], said("<video>", "v.mp4")),
        ([{"type": "image_url", "image_url": {"url": "https://host/1"}}], [], "remote_media"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png,"}}], [], "embedded_media"),
        ([{"type": "image", "image": {"bytes": "iVBO", "path": None}}], [], "embedded_media"),
        ([{"type": "video", "video": ["1.png", "2.png"]}], [], "bad_media"),
        ([{"type": "image"}, {"type": "image"}], ["0.png"], "placeholder_mismatch"),
        ([{"type": "input_audio"}], [], "bad_turn"),
        ([{"type": ["text"], "text": "a"}], [], "bad_turn"),
        ([{"type": "text", "text": 5}], [], "bad_turn"),
        ([[PART]], [], "bad_turn"),
        ([5], [], "bad_turn"),
        ([{}], [], "bad_turn"),
        ([], [], "empty_question"),
    ],
)
def test_content_in_parts(tmp_path, content, images, expected):
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": ["b"]}]
    assert outcome(read_one(tmp_path, {"messages": messages, "images": images})) == expected


def test_a_medium_in_an_answer_is_misplaced(tmp_path):
    answer = {"role": "assistant", "content": [{"type": "image", "image": "1.png"}, PART]}
    row = read_one(tmp_path, {"messages": [TALK[0], answer]})
    assert row.rejection.reason == "misplaced_placeholder"


def test_media_of_their_own_and_of_the_row_keep_their_order(tmp_path):
    record = {
        "query": "<image><img>own.png</img><image> and <video>",
        "response": "b",
        "images": ["1.png", "2.png"],
        "videos": ["v.mp4"],
    }
    row = read_one(tmp_path, record)
    assert [medium.path for medium in row.media] == ["1.png", "own.png", "2.png", "v.mp4"]
    assert row.messages[0]["content"] == [IMAGE, IMAGE, IMAGE, text(" and "), VIDEO]


def test_csv_rows_that_are_wrong(tmp_path):
    lines = [
        b"\xef\xbb\xbfquery,response,images",
        b'a,"b\n""c""",1.png',
        b"a",
        b"a,b,1.png,2.png",
        b"caf\xe9,b,",
        b"a," + b"b" * 200_000 + b",",
        b'a,b,"[""1.png"", ""2.png""]"',
        b'<image><image>,b,"[""1.png"", ""2.png""]"',
        b"",
        b"a,b,",
    ]
    (tmp_path / "rows.csv").write_bytes(b"\r\n".join(lines))
    assert [outcome(row) for row in read(tmp_path)] == [
        said("<image>a", "1.png", answer='b\n"c"'),
        "malformed_csv",
        "malformed_csv",
        "bad_encoding",
        "malformed_csv",
        "placeholder_mismatch",
        said("<image><image>", "1.png", "2.png"),
        A_B,
    ]
    assert "line 4" in read(tmp_path)[1].rejection.detail


WORDS = st.sampled_from(["user", "assistant", "system", "<image>", "a.png", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | WORDS,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "image"]), children, max_size=3)
    ),
    max_leaves=5,
)
KEYS = ("messages", "conversation", "images", "video", "query", "response", "input", "history")
RECORDS = st.dictionaries(st.sampled_from([*KEYS, "id", "system", "objects", "text"]), VALUES)


@EXAMPLES
@given(st.lists(RECORDS, max_size=4))
def test_no_row_stops_the_rest(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("raw")
    records.append({"messages": TALK})
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    rows = read(folder)
    assert len(rows) == len(records) and rows[-1].rejection is None
    for row in rows:
        assert row.rejection or canonical_json([row.messages, row.meta])
        parts = [part for message in row.messages for part in message["content"]]
        assert [part["type"] for part in parts if part["type"] != "text"] == [
            medium.kind for medium in row.media
        ]
        roles = [message["role"] for message in row.messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
