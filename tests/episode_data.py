"""Episodes as tests write them: converting a folder of them, and small ones of every layout."""

from __future__ import annotations

import json

from raw_datasets import check_sums, lock_and_convert, picture, rejects_of, samples_of, save


def convert(results, folder, layout, **options):
    """Convert a folder; return samples and the reasons of its rejects by row."""
    manifest = lock_and_convert(
        results, "n", folder, "navigation", None, format_options={"layout": layout, **options}
    )
    rejects = rejects_of(results, "n")
    check_sums(manifest, rejects)
    samples = samples_of(results, "n")
    for sample in samples:
        assert shape(sample).count("v") == len(sample["media"])
        assert sample["messages"][-1]["role"] == "assistant" and not sample["boxes"]
    return samples, {reject["row"]: reject["reason"] for reject in rejects}


def shape(sample):
    """The parts of a question: v for an image, else its text."""
    parts = sample["messages"][0]["content"]
    return ["v" if part["type"] == "image" else part["text"] for part in parts]


def answer(sample):
    return sample["messages"][1]["content"][0]["text"]


def action(sample):
    return json.loads(answer(sample))


def screens(folder, *names, size=(200, 100)):
    for seed, name in enumerate(names):
        save(picture(seed, size), folder / name)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def mouse(kind, x=100, y=50, **fields):
    return {"action_type": "MouseAction", "mouse_action_type": kind,
            "mouse_position": {"width": x, "height": y}, **fields}  # fmt: skip


def keyboard(**fields):
    return {"action_type": "KeyboardAction", **fields}


def mind2web_action(uid, op="CLICK", value="", box=(20, 10, 40, 20), **fields):
    bbox = None if box is None else dict(zip(("x", "y", "width", "height"), box, strict=True))
    operation = {"original_op": op, "value": value, "op": op}
    return {"action_uid": uid, "operation": operation, "bbox": bbox, **fields}


def mind2web_episode(*steps, name="e", **fields):
    return {
        "annotation_id": name, "confirmed_task": "buy a car", "website": "cars",
        "domain": "Travel", "subdomain": "Car", "actions": list(steps),
        "action_reprs": ["[link]  Used cars -> CLICK"] * len(steps), **fields,
    }  # fmt: skip


def aitw_step(text="click", kind=4, image="general/1_0", **fields):
    return {"ep_id": "1", "goal": "open maps", "img_filename": image, "action_type_id": kind,
            "action_type_text": text, "touch": [0.25, 0.5], "lift": [0.35, 0.5], "type_text": "",
            **fields}  # fmt: skip


def guiact_step(uid, *labels, question="search", **fields):
    image = uid if "episode" in uid else uid.replace("uid", "web")
    return {"uid": uid, "image_id": image, "image_size": {"width": 200, "height": 100},
            "question": question, "actions_history": "", "logs": "", "thoughts": "think",
            "actions_label": list(labels), **fields}  # fmt: skip


def related(value, **fields):
    return {"related": value, "absolute": "<box>1, 2, 3, 4</box>", **fields}
