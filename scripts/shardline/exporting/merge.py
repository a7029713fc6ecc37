"""Exporting a stage as one model folder that stock transformers loads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import shardline.attention  # noqa: F401 (registers the attention that families ask for)
from shardline.errors import DataError, GateError
from shardline.exporting.chosen import LAST, load_checkpoint, write_adapter
from shardline.exporting.processor import add_processor
from shardline.files import file_entry, naming_full_disk, read_json, sha256_file, write_json
from shardline.folders import install, remove, unfinished
from shardline.placeholders import placeholder_ids
from shardline.training.checkpoints import step_of
from shardline.training.outcome import EXTRA, final_folder, kept_checkpoint
from shardline.versions import package_versions

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""Of logits, relative to the largest one if that is over 1."""
PROBE_TEXT = "Where on this screen is 0.5 of it?"
PROBE_OPTIONS = {"min_visual_tokens": 4, "max_visual_tokens": 64, "fit": "pad"}
PACKAGES = ("torch", "transformers", "peft", "safetensors")


def merge_model(
    family: ModuleType,
    result_file: Path,
    model: Path,
    model_manifest: Path,
    folder: Path,
    manifest: Path,
    limits: tuple[int, int] | None = None,
    export_from: str = LAST,
) -> None:
    """Write the model of a finished stage, with its processor and the template it was trained on.

    Args:
        model: folder that the stage was initialised from; ``model_manifest`` is its manifest.
        limits: least and most visual tokens an image, as in training; they go into the saved
            processor, so that stock transformers resizes as training did.
        export_from: ``last``, or ``best`` or ``step:<n>``: one of the checkpoints that were kept.

    Raises:
        ConfigError: the checkpoint was not kept.
        DataError: that is not the model that the stage was trained from.
        GateError: merge parity: a targeted tensor is unchanged, another one is not, or the merged
            model's logits differ from the base's with its adapter.
    """
    result = read_json(result_file)
    if sha256_file(model_manifest) != result["model_sha256"]:
        raise DataError(f"{model_manifest}: not what {result_file} was trained from; train again")
    final = final_folder(result_file, result)
    checkpoint = None if export_from == LAST else kept_checkpoint(result_file, result, export_from)
    growing = unfinished(folder, "export")
    remove(growing)
    growing.mkdir()
    dtype = saved_dtype(final if result["kind"] == "full" else model)
    if result["kind"] == "full":
        merged = (
            load_checkpoint(family, model, checkpoint, dtype)
            if checkpoint
            else family.load_model(final, dtype, "cpu")
        )
        before = digests(family.load_model(model, dtype, "cpu"), dtype)
        after = digests(merged, dtype)
        changed = [name for name in before if before[name] != after[name]]
        parity = _parity(0.0, dtype, len(changed), len(before) - len(changed))
    elif checkpoint:
        adapter = growing / "adapter"
        adapter.mkdir()
        write_adapter(checkpoint, final, adapter)
        merged, parity = merge_adapter(family, model, adapter, dtype)
        remove(adapter)
    else:
        merged, parity = merge_adapter(family, model, final, dtype)
    write_model(family, merged, model, growing, dtype, limits)
    install(growing, folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    write_json(
        manifest,
        {
            "stage": "export",
            "kind": "merged",
            "recipe": result["recipe"],
            "name": result["name"],
            "export_from": export_from,
            "step": step_of(checkpoint) if checkpoint else result.get("steps"),
            "files": [file_entry(file, file.relative_to(folder).as_posix()) for file in files],
            "parity": parity,
            **({"trained_on": f"the base in {four}"} if (four := result.get("quantise")) else {}),
            "result_sha256": sha256_file(result_file),
            "versions": package_versions(*PACKAGES),
        },
    )


def write_model(
    family: ModuleType,
    merged: torch.nn.Module,
    model: Path,
    folder: Path,
    dtype: torch.dtype,
    limits: tuple[int, int] | None = None,
) -> None:
    """Save a model into an empty folder, with the processor of the folder ``model``.

    Raises:
        GateError: what was saved gives other logits.
    """
    logits = probe_logits(family, model, merged)
    for config in (merged.config, merged.config.get_text_config()):
        config.use_cache = True
    with naming_full_disk(folder):
        merged.save_pretrained(folder)
    add_processor(family, model, folder)
    if limits:
        family.set_image_limits(folder, *limits)
    reloaded = family.load_model(folder, dtype, "cpu")
    if not torch.equal(probe_logits(family, model, reloaded), logits):
        raise GateError(f"merge parity: {folder} gives other logits than the model saved to it")


def merge_adapter(
    family: ModuleType, model: Path, adapter: Path, dtype: torch.dtype
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Base plus adapter as one model: added in fp32, then cast to ``dtype``.

    Returns:
        The model, and the parity report.

    Raises:
        GateError: as `merge_model`.
    """
    from peft import PeftModel

    base = family.load_model(model, torch.float32, "cpu")
    before = digests(base, dtype)
    expected = set()
    if (adapter / EXTRA).is_file():
        tuned = load_file(adapter / EXTRA)
        base.load_state_dict(tuned, strict=False)
        expected |= set(tuned)
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    expected |= {f"{name}.weight" for name in adapted.targeted_module_names}
    reference = probe_logits(family, model, adapted)
    merged = adapted.merge_and_unload(safe_merge=True)
    exact = _difference(reference, probe_logits(family, model, merged))
    if exact > TOLERANCES[torch.float32]:
        raise GateError(
            f"merge parity: in fp32 the merged logits differ by {exact:.2g} from base + adapter"
        )
    for parameter in merged.parameters():  # not the buffers: rotary frequencies stay fp32
        parameter.data = parameter.data.to(dtype)
    check_changes(before, digests(merged, dtype), expected)
    difference = _difference(reference, probe_logits(family, model, merged))
    if difference > TOLERANCES[dtype]:
        raise GateError(
            f"merge parity: the merged logits differ by {difference:.2g} from base + adapter; "
            f"allowed is {TOLERANCES[dtype]:g}"
        )
    return merged, _parity(difference, dtype, len(expected), len(before) - len(expected))


def check_changes(before: dict[str, str], after: dict[str, str], expected: set[str]) -> None:
    """Check that exactly the expected tensors changed.

    Raises:
        GateError: a targeted tensor is as before, or another one is not; names the first.
    """
    if before.keys() != after.keys():
        raise GateError(
            f"merge parity: tensors came or went: {sorted(before.keys() ^ after.keys())[:3]}"
        )
    changed = {name for name, digest in before.items() if digest != after[name]}
    if idle := sorted(expected - changed):
        raise GateError(f"merge parity: {idle[0]} was adapted, but merging did not change it")
    if touched := sorted(changed - expected):
        raise GateError(f"merge parity: {touched[0]} was not adapted, but merging changed it")


def digests(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, str]:
    """sha256 of each tensor as it is saved in ``dtype``."""
    found = {}
    for name, tensor in model.state_dict().items():
        values = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor
        data = values.contiguous().flatten().view(torch.uint8).numpy().data
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def saved_dtype(folder: Path) -> torch.dtype:
    """The precision that a model folder's config declares: bf16, or else fp32."""
    config = read_json(folder / "config.json")
    declared = config.get("dtype") or config.get("torch_dtype")
    return torch.bfloat16 if declared == "bfloat16" else torch.float32


def probe_logits(family: ModuleType, folder: Path, model: torch.nn.Module) -> torch.Tensor:
    """Logits fp32 [T, vocabulary] of a fixed question about a fixed image, on one thread.

    How far they differ stands in the manifest, whose bytes do not depend on the number of cores.
    """
    tokenizer = family.load_tokenizer(folder)
    placeholders = placeholder_ids(tokenizer, family)
    content = [{"type": "image"}, {"type": "text", "text": PROBE_TEXT}]
    input_ids, labels = family.encode(tokenizer, [{"role": "user", "content": content}])
    vision = read_json(folder / "config.json")["vision_config"]
    options = {**PROBE_OPTIONS, "image_side": vision.get("image_size")}
    grid = family.media_grid(112, 84, None, options)
    ramp = np.linspace(0, 255, 112 * 84 * 3).astype(np.uint8).reshape(84, 112, 3)
    image = torch.from_numpy(family.resize([ramp], grid, options))
    expanded, _ = family.expand(input_ids, labels, [grid], placeholders)
    tokens = torch.from_numpy(expanded.astype(np.int64))[None]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        answer = model(
            input_ids=tokens,
            **family.position_inputs((tokens == placeholders[0]).long(), [1], [0.0]),
            **family.vision_inputs([image], [grid], "cpu", torch.float32),
        )
    torch.set_num_threads(threads)
    return answer.logits[0].float()


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    scale = max(1.0, expected.abs().max().item())
    return (expected - found).abs().max().item() / scale


def _parity(difference: float, dtype: torch.dtype, changed: int, unchanged: int) -> dict[str, Any]:
    return {
        "passed": True,
        "max_logit_difference": difference,
        "tolerance": TOLERANCES[dtype],
        "changed_tensors": changed,
        "unchanged_tensors": unchanged,
    }
