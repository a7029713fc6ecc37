"""Training steps of Qwen2-VL-2B with LoRA on one GPU, as a table: `make bench-gpu`.

Random weights, drawn screens of 256 to 1344 visual tokens. Every row is a process of its own:

* ``seed``: padded batches of 4, gradient checkpointing, SDPA: what the recipe's authors ran.
* ``plain``: the same without checkpointing, under autocast: a step as TRL has it.
* ``packed``: ours: `train_stage` over the plan of token shards, loader, clipping and journal.
* ``compiled``: ours with ``compile: blocks`` in the preset; ``liger`` with ``kernels: liger``.
* ``cached``: compiled, reading the vision tower's outputs from disk (``features`` computes them).

Tokens are those of samples, without padding. Utilisation is model FLOPs (`shardline.flops`: what
LoRA and a frozen tower need, attention included) over the card's data sheet, and over a matrix
product that is measured here. Both stock rows have their batches ready in memory. What ours take
longer in their first steps (compiling) is apart. ``reference`` is the stock model's loss on the
first step's samples, which every row of ours must have.

A row that fails is listed with its error. ``--size tiny --device cpu`` runs all rows in minutes on
a machine without a GPU, to see that they run: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import FOLDER

from shardline.files import read_json, write_json

Settings = dict[str, Any]
BASELINE = "seed"
STOCK, OURS = ("seed", "plain"), ("packed", "compiled", "liger", "cached")
ROWS: dict[str, dict[str, Any]] = {
    "device": {"program": "gpu_stock.device"},
    "seed": {"program": "gpu_stock.train", "checkpointing": True},
    "compiled": {"program": "gpu_ours.train", "compile": "blocks"},
    "features": {"program": "gpu_ours.compute_features"},
    "cached": {"program": "gpu_ours.train", "compile": "blocks", "features": True},
    "reference": {"program": "gpu_stock.reference"},
    "packed": {"program": "gpu_ours.train"},
    "plain": {"program": "gpu_stock.train", "checkpointing": False},
    "liger": {"program": "gpu_ours.train", "kernels": "liger"},
}
"""In the order in which they run: what matters most first."""
COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "tokens/s": lambda row: f"{row['tokens_per_second']:,.0f}",
    "x seed": lambda row: f"{row['ratio']:.2f}" if "ratio" in row else "",
    "samples/s": lambda row: f"{row['samples_per_second']:.1f}",
    "MFU": lambda row: f"{row['mfu']:.1%}" if "mfu" in row else "",
    "of product": lambda row: f"{row['mfu_of_product']:.1%}",
    "peak GB": lambda row: f"{row['peak_gigabytes']:.1f}",
    "NaN": lambda row: str(row["nan"]),
    "waits": lambda row: f"{row['data_wait_share']:.2%}" if "data_wait_share" in row else "",
    "syncs": lambda row: str(row.get("syncs_a_step", "")),
    "warm-up s": lambda row: f"{row['warm_seconds']:.0f}" if "warm_seconds" in row else "",
    "loss": lambda row: f"{row['loss_difference']:.1e}" if "loss_difference" in row else "",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line; run one row, or all and show them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("2b", "tiny"), default="2b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--samples", type=int, default=192, help="screens to draw")
    parser.add_argument("--steps", type=int, default=200, help="of compiled rows")
    parser.add_argument("--packed-steps", type=int, default=50, help="of ours not compiled")
    parser.add_argument("--stock-steps", type=int, default=24)
    parser.add_argument("--warm", type=int, default=6, help="steps that are not timed")
    parser.add_argument("--max-length", type=int, default=8192, help="tokens a pack")
    parser.add_argument("--workers", type=int, default=8, help="of the loader")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seconds", type=int, default=570, help="rows that come later are left")
    parser.add_argument("--output", type=Path, default=FOLDER / "gpu.json")
    parser.add_argument(
        "--folder", type=Path, help="to work in and keep; rows that are there are not run again"
    )
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.row:
        run_row(arguments.row, arguments.folder)
        return
    settings = {**vars(arguments), "precision": "bf16" if arguments.device == "cuda" else "fp32"}
    settings["threads"] = os.cpu_count() if arguments.device == "cuda" else 1
    settings |= {"output": str(arguments.output), "folder": None}
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        measure(arguments.folder.resolve(), settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), settings)


def measure(folder: Path, settings: Settings) -> None:
    """Run the rows one after the other; after each, write what is known by then."""
    end = time.monotonic() + settings["seconds"]
    (folder / "settings.json").write_text(json.dumps(settings))
    rows = ("prepare", *ROWS)
    files = {name: folder / f"{name}.json" for name in rows}
    found = {name: read_json(files[name]) for name in rows if files[name].is_file()}
    for name in ("prepare", *settings["rows"]):
        if name in found or (name == "liger" and not _liger(settings)):
            continue
        begin = time.monotonic()
        print(f"{name} ...", flush=True)
        found[name] = _child(name, folder, end - begin)
        found[name]["took"] = time.monotonic() - begin
        if error := found[name].get("error"):
            print(f"{name} failed after {found[name]['took']:.0f} s: {error}", flush=True)
            if name == "prepare":
                raise SystemExit(1)
        write_json(Path(settings["output"]), flat(derived(found)))
    show(derived(found))


def _liger(settings: Settings) -> bool:
    return settings["device"] == "cuda" and importlib.util.find_spec("liger_kernel") is not None


def _child(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """What a row's process wrote, or its error."""
    log = folder / f"{name}.log"
    command = [sys.executable, __file__, "--row", name, "--folder", str(folder)]
    with open(log, "w") as file:
        try:
            code = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=max(seconds, 1), check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": "no time was left for it (--seconds)"}
    if code:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        print("\n".join(said[-15:]), flush=True)
        return {"error": said[-1][:300] if said else f"exit status {code}"}
    return read_json(folder / f"{name}.json")


def run_row(name: str, folder: Path) -> None:
    """One row, in this process; its figures go to ``<folder>/<name>.json``."""
    settings = json.loads((folder / "settings.json").read_text())
    if name == "prepare":
        write_json(folder / "prepare.json", prepare(folder, settings))
        return
    import torch

    row = {"name": name, **ROWS[name], "steps": _steps(name, settings)}
    row |= {key: settings[key] for key in ("precision", "threads")}
    module, function = row["program"].split(".")
    figures = getattr(importlib.import_module(module), function)(row, folder, settings)
    if settings["device"] == "cuda":
        figures["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    write_json(folder / f"{name}.json", {"peak_gigabytes": 0.0, **figures})


def _steps(name: str, settings: Settings) -> int:
    kind = "stock_steps" if name in STOCK else "packed_steps"
    return settings["steps"] if "compile" in ROWS[name] else settings[kind]


def prepare(folder: Path, settings: Settings) -> dict[str, Any]:
    """Draw, build, tokenise and plan."""
    import gpu_data

    results = folder / "results"
    model = results / "raw/models/base"
    made = gpu_data.write_samples(folder, settings["samples"])
    gpu_data.write_base(model, made, settings["size"], settings["device"])
    tokens = gpu_data.write_tokens(results, made, model)
    for steps in {settings["steps"], settings["packed_steps"]}:
        gpu_data.write_plan(results, tokens, steps, settings)
    return {"max_length": settings["max_length"], "samples": len(made)}


def derived(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows with rates, utilisation, and what they are to the seed's."""
    from shardline.flops import peak_flops

    device = found.get("device", {})
    peak = peak_flops(device.get("name", ""))
    rows = {name: dict(row) for name, row in found.items()}
    for row in rows.values():
        if "tokens" not in row:
            continue
        seconds = row["seconds"]
        row["tokens_per_second"] = row["tokens"] / seconds
        row["samples_per_second"] = row["samples"] / seconds
        row["teraflops"] = row["flops"] / seconds / 1e12
        row["gigaflops_per_token"] = row["flops"] / row["tokens"] / 1e9
        if peak:
            row["mfu"] = row["flops"] / seconds / peak
        row["mfu_of_product"] = row["flops"] / seconds / device.get("product", float("inf"))
    for name in OURS:
        row, known = rows.get(name, {}), rows.get("reference", {})
        stock = known.get(f"first_loss_{row.get('steps')}")
        if stock is not None and "first_loss" in row:
            row["loss_difference"] = abs(row["first_loss"] - stock) / stock
    if "tokens_per_second" in (base := rows.get(BASELINE, {})):
        for row in rows.values():
            if "tokens_per_second" in row:
                row["ratio"] = row["tokens_per_second"] / base["tokens_per_second"]
    return rows


def flat(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One object of named figures."""
    return {f"{name}.{key}": value for name, row in rows.items() for key, value in row.items()}


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table, and what is not in it."""
    print("\n" + f"{'':10}" + "".join(f"{title:>12}" for title in COLUMNS))
    for name in (*STOCK, *OURS):
        row = rows.get(name)
        if row is None:
            continue
        if "tokens" not in row:
            print(f"{name:10}  failed: {row.get('error', 'no figures')}")
            continue
        print(f"{name:10}" + "".join(f"{column(row):>12}" for column in COLUMNS.values()))
    if "product" in (device := rows.get("device", {})):
        print(f"{device['name']}: a matrix product runs at {device['product'] / 1e12:.0f} TFLOP/s")
    if "gigabytes_per_1000_samples" in (features := rows.get("features", {})):
        print(
            f"features: {features['gigabytes_per_1000_samples']:.2f} GB and "
            f"{1000 * features['seconds'] / features['samples']:.0f} s per 1,000 samples"
        )
    for name, row in rows.items():
        if row.get("late_graphs"):
            print(f"{name}: {row['late_graphs']} graphs were compiled after the second step")


if __name__ == "__main__":
    main()
