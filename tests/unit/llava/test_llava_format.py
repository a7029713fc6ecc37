"""LLaVA rows: what they claim and what becomes of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_rows import EXAMPLES, JSON, read, read_one, reasons, talk, text, write_lines
from raw_datasets import (
    check_sums,
    lock_and_convert,
    rejects_of,
    samples_of,
)
from shardline import conversations
from shardline.errors import ConfigError, DataError
from shardline.files import canonical_json
from shardline.media_paths import MediaFinder
from shardline.rows import Row

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
