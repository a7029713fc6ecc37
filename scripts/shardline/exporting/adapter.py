"""Exporting a LoRA adapter: checked to hold something, and copied.

Reads no tensor library, unless the adapter is that of a checkpoint.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from shardline.errors import ConfigError, GateError
from shardline.exporting.chosen import CONFIG, LAST, WEIGHTS, write_adapter
from shardline.files import file_entry, read_json, sha256_file, write_json
from shardline.folders import install, remove, unfinished
from shardline.training.checkpoints import step_of
from shardline.training.outcome import EXTRA, final_folder, kept_checkpoint

BLOCK = 1 << 20


def export_adapter(
    result_file: Path, folder: Path, manifest: Path, export_from: str = LAST
) -> None:
    """Copy the adapter of a finished stage and write its manifest.

    Args:
        export_from: ``last``, or ``best`` or ``step:<n>``: one of the checkpoints that were kept.

    Raises:
        ConfigError: the stage has no adapter, base weights were trained beside it, or the
            checkpoint was not kept.
        GateError: a tensor of the adapter is empty or all zeros, or the file is not the result's.
    """
    result = read_json(result_file)
    name = f"{result['recipe']}/{result['name']}"
    if result["kind"] != "lora":
        raise ConfigError(
            f"exports: the stage {name} was trained in full and has no adapter; export `merged`"
        )
    final = final_folder(result_file, result)
    if (final / EXTRA).exists():
        raise ConfigError(
            f"exports: the stage {name} also trained weights of the base in full, so that its "
            "adapter alone is not the model; export `merged`"
        )
    recorded = {Path(entry["name"]).name: entry["sha256"] for entry in result["weights"]}
    if sha256_file(final / WEIGHTS) != recorded[WEIGHTS]:
        raise GateError(f"{final / WEIGHTS}: not the file that {result_file} names; train again")
    checkpoint = None if export_from == LAST else kept_checkpoint(result_file, result, export_from)
    growing = unfinished(folder, "export")
    remove(growing)
    growing.mkdir()
    if checkpoint:
        write_adapter(checkpoint, final, growing)
    tensors = check_tensors((growing if checkpoint else final) / WEIGHTS)
    for file in () if checkpoint else (WEIGHTS, CONFIG):
        shutil.copyfile(final / file, growing / file)
    install(growing, folder)
    write_json(
        manifest,
        {
            "stage": "export",
            "kind": "adapter",
            "recipe": result["recipe"],
            "name": result["name"],
            "export_from": export_from,
            "step": step_of(checkpoint) if checkpoint else result.get("steps"),
            "base_model": read_json(folder / CONFIG)["base_model_name_or_path"],
            "tensors": tensors,
            "files": [file_entry(folder / file) for file in (CONFIG, WEIGHTS)],
            **{key: result[key] for key in ("token_merging",) if key in result},
            "result_sha256": sha256_file(result_file),
        },
    )


def check_tensors(path: Path) -> int:
    """The number of tensors in a safetensors file, none of them empty or all zeros.

    Raises:
        GateError: one is, or the file is not whole; the message names it.
    """
    with open(path, "rb") as file:
        header, start = _header(path, file)
        for name, tensor in header.items():
            begin, end = tensor["data_offsets"]
            if begin == end:
                raise GateError(f"{path}: the tensor {name} is empty {tensor['shape']}")
            file.seek(start + begin)
            if not _any_bit(file, end - begin):
                raise GateError(
                    f"{path}: the tensor {name} is all zeros: this adapter does nothing there"
                )
    if not header:
        raise GateError(f"{path}: has no tensors")
    return len(header)


def _header(path: Path, file: Any) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
    if length > size - 8:
        raise GateError(f"{path}: not a whole safetensors file")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    if size != 8 + length + max((t["data_offsets"][1] for t in header.values()), default=0):
        raise GateError(f"{path}: not a whole safetensors file")
    return header, 8 + length


def _any_bit(file: Any, size: int) -> bool:
    while size > 0:
        block = file.read(min(size, BLOCK))
        if block.strip(b"\0"):
            return True
        size -= len(block)
    return False
