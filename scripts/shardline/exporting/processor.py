"""The processor of an exported model: its base's, with the template that it was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

from shardline.files import write_json

PROCESSOR_FILES = (
    "added_tokens.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
)
TEMPLATE = "chat_template.jinja"


def add_processor(family: ModuleType, model: Path, folder: Path) -> None:
    """Copy the processor of the folder ``model``, with the chat template of the family."""
    for name in PROCESSOR_FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    for name in ("tokenizer_config.json", "processor_config.json"):
        if (folder / name).is_file():
            config = json.loads((folder / name).read_bytes())
            if config.pop("chat_template", None) is not None:
                write_json(folder / name, config)
    (folder / TEMPLATE).write_text(family.chat_template(), encoding="utf-8")
