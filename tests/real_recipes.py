"""The five recipes' datasets over the shared sample data, as a user would register them."""

from __future__ import annotations

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
