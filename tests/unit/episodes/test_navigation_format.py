"""The navigation format: its options, damaged files, and values of any kind anywhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episode_data import (
    aitw_step,
    convert,
    guiact_step,
    keyboard,
    mind2web_action,
    mind2web_episode,
    mouse,
    related,
    screens,
    write,
)
from raw_datasets import lock_and_convert
from shardline.errors import ConfigError, DataError
from shardline.formats import navigation


def test_a_damaged_screenshot_of_the_past_rejects_what_shows_it(folder, results):
    screens(folder, "images/1.png", "images/2.png", "images/3.png")
    data = (folder / "images/1.png").read_bytes()
    (folder / "images/1.png").write_bytes(data[: len(data) // 2])
    steps = [
        {"image": f"{number}.png", "ground_truth_actions": [{"type": "wait", "params": {}}]}
        for number in (1, 2, 3)
    ]
    write(folder / "t.json", {"task_id": "t", "instruction": "go", "steps": steps})
    samples, rejects = convert(results, folder, "agentnet", history=1)
    assert rejects == {"t.json#0.0": "corrupt_image"} and len(samples) == 2
    samples, rejects = convert(results, folder, "agentnet", history=1, interleaving="vtvt")
    assert list(rejects) == ["t.json#0.0", "t.json#0.1"] and len(samples) == 1
    samples, rejects = convert(results, folder, "agentnet", history=0, interleaving="vtvt")
    assert len(samples) == 2 and samples[1]["meta"]["history"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "layout is None, none of agentnet, aitw, guiact, mind2web, screenagent"),
        ({"layout": ["aitw"]}, "layout"),
        ({"layout": "aitw", "interleaving": "vttv"}, "interleaving is 'vttv'"),
        ({"layout": "aitw", "history": -1}, "history is -1"),
        ({"layout": "aitw", "history": True}, "history is True"),
        ({"layout": "aitw", "decimals": 2.0}, "decimals"),
        ({"layout": "aitw", "answer": "yaml"}, "answer"),
        ({"layout": "aitw", "prompt": 3}, "prompt is 3"),
        ({"layout": "aitw", "num_history": 3}, "no option num_history"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        list(navigation.read(tmp_path, options))


def test_a_frame_is_refused_and_missing_files_are_named(shared_data, results, tmp_path):
    source = shared_data / "agentnetbench_trajectories"
    with pytest.raises(ConfigError, match="declare none"):
        lock_and_convert(
            results, "n", source, "navigation", "unit_xyxy", format_options={"layout": "agentnet"}
        )
    with pytest.raises(DataError, match=r"mind2web_data_\*\.json"):
        list(navigation.read(source, {"layout": "mind2web"}))
    (tmp_path / "aitw_data_test.json").write_text("[")
    with pytest.raises(DataError, match=r"aitw_data_test\.json"):
        list(navigation.read(tmp_path, {"layout": "aitw"}))


def test_malformed_files_never_end_in_a_traceback(shared_data, tmp_path):
    names = {
        "agentnet": "t.jsonl", "aitw": "aitw_data_a.json", "guiact": "web-single_a_data.json",
        "mind2web": "mind2web_data_a.json", "screenagent": "s/a.json",
    }  # fmt: skip
    for source in sorted((shared_data / "malformed_json").glob("*.json")):
        for layout, name in names.items():
            path = tmp_path / source.stem / layout / name
            path.parent.mkdir(parents=True)
            path.write_bytes(source.read_bytes())
            try:
                rows = list(navigation.read(tmp_path / source.stem / layout, {"layout": layout}))
            except DataError:
                continue
            assert all(row.rejection for row in rows)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


GOOD = {
    "agentnet": {"task_id": "t", "instruction": "go", "steps": [
        {"image": "a.png", "step_num": 1, "ground_truth_actions": [
            {"type": "click", "params": {"position": {"x": 0.5, "y": 0.5}}}]}]},
    "aitw": {"general": [[aitw_step(image="a")]]},
    "guiact": [guiact_step("u_step_0", {"name": "click", "element": related("<box>0,0,1,1</box>")},
                           image_id="a")],
    "mind2web": [mind2web_episode(mind2web_action("a"))],
    "screenagent": {"task_prompt": "go", "saved_image_name": "a.png", "video_width": 200,
                    "video_height": 100, "actions": [mouse("click"), keyboard(keyboard_key="a")]},
}  # fmt: skip


NAMES = {"agentnet": "t.json", "aitw": "aitw_data_a.json", "guiact": "web-multi_a_data.json",
         "mind2web": "mind2web_data_a.json", "screenagent": "s/a.json"}  # fmt: skip


def replaced(data, value, content):
    """``content`` with one value in it, anywhere, replaced by another."""
    if isinstance(content, dict) and content and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(content)))
        return {**content, key: replaced(data, value, content[key])}
    if isinstance(content, list) and content and data.draw(st.integers(0, 4)):
        index = data.draw(st.integers(0, len(content) - 1))
        return [*content[:index], replaced(data, value, content[index]), *content[index + 1 :]]
    return value


@pytest.mark.parametrize("layout", sorted(GOOD))
def test_any_value_anywhere_is_a_row_or_a_reject(tmp_path, layout):
    folder = tmp_path / "raw"
    screens(folder, "a.png", "e-a.jpg", "s/a.png")
    write(folder / NAMES[layout], GOOD[layout])
    (row,) = navigation.read(folder, {"layout": layout})
    assert row.rejection is None

    @settings(max_examples=60)
    @given(data=st.data(), value=json_values)
    def check(data, value):
        write(folder / NAMES[layout], replaced(data, value, GOOD[layout]))
        try:
            rows = list(navigation.read(folder, {"layout": layout, "interleaving": "vtvt"}))
        except DataError:
            return
        for row in rows:
            assert row.rejection or json.dumps([row.meta, row.messages], allow_nan=False).encode()

    check()
