"""Rows of `gpu` that are stock: transformers' model and processor, PEFT, padded batches."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu_data
import torch
from gpu_ours import LORA
from PIL import Image

from shardline import flops
from shardline.families import qwen2_vl as family
from shardline.files import read_json
from shardline.labels import IGNORED
from shardline.plan_file import read_plan
from shardline.token_index import read_index
from shardline.token_reader import TokenReader

BATCH = 4
Batch = dict[str, Any]


class Padded:
    """Batches as the processor of transformers makes them, with the labels of our shards."""

    def __init__(self, folder: Path) -> None:
        import io

        from transformers import AutoProcessor

        results = folder / "results"
        self.processor = AutoProcessor.from_pretrained(results / "raw/models/base")
        self.processor.tokenizer.padding_side = "right"
        self.made = {
            name: (sample, Image.open(io.BytesIO(data)).convert("RGB"))
            for name, (sample, data) in gpu_data.read_samples(folder).items()
        }
        self.labels = _labels(results)

    def batch(self, names: Sequence[str]) -> Batch:
        """The forward's keywords for these samples, padded to the longest; with ``work``.

        Raises:
            SystemExit: the processor's tokens are not those of our shards.
        """
        samples = [self.made[name] for name in names]
        texts = [
            self.processor.apply_chat_template(sample.messages, tokenize=False)
            for sample, _ in samples
        ]
        images = [image for _, image in samples]
        given = dict(self.processor(text=texts, images=images, padding=True, return_tensors="pt"))
        labels = torch.full_like(given["input_ids"], IGNORED)
        lengths = given["attention_mask"].sum(1).tolist()
        learned = 0
        for row, (name, length) in enumerate(zip(names, lengths, strict=True)):
            ids, own = self.labels[name]
            if given["input_ids"][row, :length].tolist() != ids:
                raise SystemExit(f"{name}: the processor's tokens are not those of our shards")
            labels[row, :length] = torch.tensor(own)
            learned += sum(label != IGNORED for label in own[1:])
        work = flops.text_work(lengths, learned)
        work += flops.media_work(given["image_grid_thw"].tolist(), family.MERGE)
        return {**given, "labels": labels, "work": work}


def _labels(results: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Expanded ids and labels of every sample of the token shards."""
    plan = read_json(next((results / "plans/bench").glob("*[0-9].json")))
    reader = TokenReader(results, plan["shards"], pictures=False)
    found = {}
    for number, shard in enumerate(plan["shards"]):
        for row in range(read_index(results / shard["index"], ["id"]).num_rows):
            sample = reader.read(number, row)
            ids, labels = family.expand(
                sample.input_ids, sample.labels, sample.grids, plan["placeholder_ids"]
            )
            labels[0] = IGNORED
            found[sample.id] = ids.tolist(), labels.tolist()
    return found


def load(folder: Path, row: Mapping[str, Any], checkpointing: bool, device: str) -> torch.nn.Module:
    """The stock model with adapters on all linear layers of its language model."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2VLForConditionalGeneration

    model = Qwen2VLForConditionalGeneration.from_pretrained(
        folder / "results/raw/models/base",
        dtype=torch.bfloat16 if row["precision"] == "bf16" else torch.float32,
        attn_implementation="sdpa",
    ).to(device)
    model.config.use_cache = model.config.text_config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    config = LoraConfig(
        r=LORA["rank"],
        lora_alpha=LORA["alpha"],
        lora_dropout=LORA["dropout"],
        target_modules=family.lora_targets(model, "llm"),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(0)
    return get_peft_model(model, config)


def train(row: Mapping[str, Any], folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Time steps of four samples each; batches lie ready in memory.

    Args:
        row: ``checkpointing``: as the seed has it.
    """
    device = settings["device"]
    padded = Padded(folder)
    model = load(folder, row, row["checkpointing"], device)
    half = row["precision"] == "bf16"
    names = sorted(padded.made)
    random.Random(0).shuffle(names)
    batches = [
        padded.batch(names[start : start + BATCH])
        for start in range(0, min(len(names), 16 * BATCH) - BATCH + 1, BATCH)
    ]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    costs = flops.step_costs(model, family)
    optimizer = torch.optim.AdamW(trained, lr=LORA["lr"], fused=True)
    model.train()
    seconds, losses, works = [], [], []
    for step in range(row["steps"]):
        begin = time.perf_counter()
        batch = dict(batches[step % len(batches)])
        works.append(batch.pop("work"))
        given = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(device, torch.bfloat16, half):
            loss = model(**given, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    timed = slice(min(settings["warm"], row["steps"] // 2), row["steps"])
    work = sum(works[timed], flops.Work())
    return {
        "steps": len(losses),
        "seconds": sum(seconds[timed]),
        "tokens": work.tokens,
        "samples": BATCH * len(works[timed]),
        "flops": costs.of(work),
        "nan": sum(not math.isfinite(loss) for loss in losses),
    }


def reference(row: Mapping[str, Any], folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The loss that the stock model has on the samples of each plan's first step.

    Adapters begin at zero, so that it is what every row of ours must have after its first step.
    """
    device, half = settings["device"], row["precision"] == "bf16"
    padded = Padded(folder)
    model = load(folder, row, False, device).eval()
    found = {}
    results = folder / "results"
    for file in sorted((results / "plans/bench").glob("*[0-9].json")):
        plan = read_plan(file, file.with_suffix(".parquet"))
        reader = TokenReader(results, plan.summary["shards"], pictures=False)
        places = [place for pack in plan.packs(0) for place in plan.samples(pack)]
        names = [reader.read(place.shard, place.row).id for place in places]
        total = 0.0
        for start in range(0, len(names), BATCH):
            batch = padded.batch(names[start : start + BATCH])
            work = batch.pop("work")
            given = {name: value.to(device) for name, value in batch.items()}
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, half):
                total += model(**given, use_cache=False).loss.item() * work.supervised
        found[f"first_loss_{file.stem}"] = total / plan.supervised_of(0)
    return found


def device(row: Mapping[str, Any], folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The rate of a large matrix product of random numbers, and the device's name."""
    kind = settings["device"]
    size = 8192 if kind == "cuda" else 512
    dtype = torch.bfloat16 if kind == "cuda" else torch.float32
    left, right = (torch.randn(size, size, device=kind, dtype=dtype) for _ in range(2))
    rates = []
    for _ in range(13):
        wait(kind)
        begin = time.perf_counter()
        for _ in range(5):
            left @ right
        wait(kind)
        rates.append(5 * 2 * size**3 / (time.perf_counter() - begin))
    name = torch.cuda.get_device_name() if kind == "cuda" else "cpu"
    return {"name": name, "product": sorted(rates[3:])[5]}


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
