"""The five recipes' datasets over the shared sample data, as a user would register them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

Entries = dict[str, tuple[str, str, str | None, dict[str, Any]]]
"""Dataset: folder of the shared data, format, frame, format options."""

SHOWUI: Entries = {
    "agentnet": ("agentnetbench_trajectories", "agentnetbench", "unit_xywh", {}),
    "omniact": ("showui_metadata", "showui", "unit_xyxy", {}),
    "steps": ("agentnetbench_trajectories", "navigation", None, {"layout": "agentnet"}),
    "screenagent": ("screenagent_sessions", "navigation", None, {"layout": "screenagent"}),
    "screenspot": ("screenspot_v2", "screenspot", "pixel_xyxy", {}),
}
HOLO1: Entries = {
    "pix2code": ("pix2code_bootstrap", "dom_html", None, {}),
    "websrc": ("websrc_html", "dom_html", None, {}),
    "templates": ("html_template_pairs", "dom_html", None, {}),
}
VASE: Entries = {
    "chicken": (
        "multiview_chicken",
        "multiview",
        None,
        {"group": r"(?P<group>chicken-\w+)/(?P<view>\d+)"},
    ),
    "turntables": (
        "turntable_gifs",
        "multiview",
        None,
        {"group": r"(?P<group>[^/]+)/(?P<view>\d+)"},
    ),
    "photographs": ("quality_filtering", "labelled_images", None, {"classes": False}),
    "objects": ("single_view_objects", "labelled_images", None, {"classes": False}),
}
AURORA: Entries = {
    "clips": ("captioned_videos", "llava", None, {"annotations": "videos/captions.jsonl"}),
    "captions": ("data_juicer_multimodal", "llava", None, {}),
    "vdc": ("auroracap_vdc_rows", "llava", None, {}),
}
QWENVL: Entries = {
    "finetune": ("qwen_vl_finetune_demo", "qwenvl", None, {}),
    "mllm": ("llama_factory_mllm_demo", "qwenvl", None, {}),
    "swift": ("ms_swift_rows", "qwenvl", None, {}),
}
RECIPES: dict[str, tuple[Entries, list[Any]]] = {
    "showui": (SHOWUI, ["dedup", "overlap"]),
    "holo1": (HOLO1, [{"resolution": {"min_width": 64, "min_height": 64}}, "dedup"]),
    "vase": (VASE, ["dedup", "best_view"]),
    "aurora": (AURORA, [{"text_length": {"min_answer": 1}}, "dedup"]),
    "qwenvl": (QWENVL, ["aspect", "dedup"]),
}


def registry(shared_data: Path) -> dict[str, dict[str, Any]]:
    """The dataset entries of all five."""
    entries = {
        name: entry(shared_data / folder, form, frame, options)
        for datasets, _ in RECIPES.values()
        for name, (folder, form, frame, options) in datasets.items()
    }
    entries["screenspot"]["metric"] = "point_in_box"
    return entries


def entry(folder: Path, form: str, frame: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """One dataset entry; whatever its conversion rejects, the run goes on."""
    return {
        "source": f"folder:{folder}",
        "format": form,
        "format_options": options,
        "licence": "unknown",
        "max_reject_share": 1.0,
        **({"frame": frame} if frame else {}),
    }


def write_vases(folder: Path, shared_data: Path) -> None:
    """VaseVQA's rows over the chicken's views, which have no text of their own."""
    views = sorted((shared_data / "multiview_chicken").glob("chicken-*/[0-9][0-9][0-9].png"))
    rows = []
    for view in views:
        name = f"{view.parent.name}/{view.name}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(view, folder / name)
        answer = f"A hen, seen from {int(view.stem) * 360 / 16} degrees."
        turns = [
            {"from": "human", "value": "<image>Describe."},
            {"from": "gpt", "value": answer},
        ]
        rows.append({"images": [name], "caption": answer, "conversations": turns})
    (folder / "train.json").write_text(json.dumps(rows))


def write_packs(folder: Path, shared_data: Path) -> None:
    """Lists of rows as `pack_data.py` writes them, made of LLaMA-Factory's rows."""
    source = shared_data / "llama_factory_mllm_demo"
    shutil.copytree(source / "mllm_demo_data", folder / "mllm_demo_data")
    rows = json.loads((source / "mllm_demo.json").read_text())
    videos = json.loads((source / "mllm_video_demo.json").read_text())
    packs = [rows[:3], [rows[3], videos[0]], rows[4:]]
    (folder / "packs.json").write_text(json.dumps(packs))
