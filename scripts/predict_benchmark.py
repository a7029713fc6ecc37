"""Let a model answer the questions of a benchmark.

Called by the rule predict_benchmark, once a model (the untrained base too) and benchmark:

    python scripts/predict_benchmark.py \\
        --options '{"family": "qwen2_vl", "task": "grounding", "tokens": {...},
                    "max_new_tokens": 32, "limit": null}' \\
        --model results/models/demo/sft/merged \\
        --model-manifest results/models/demo/sft/merged.json \\
        --converted results/converted/screens_test/manifest.json \\
        --raw results/raw/screens_test \\
        --predictions results/evals/demo/sft/screens_test/predictions.jsonl \\
        --hardware config/hardware/cpu.yaml --threads 2

in:  a model folder, the benchmark's samples and images
out: predictions.jsonl   item, sample, question, answer (raw text), new_tokens; a line an item
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from shardline import lean, registry
from shardline.benchmark import read_benchmark
from shardline.errors import run_program
from shardline.files import read_json, write_jsonl
from shardline.hardware import load_hardware
from shardline.merging_family import family_of_model


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--options", type=json.loads, required=True, help="JSON, see above")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--model-manifest", type=Path, required=True, help="its lock or manifest")
    parser.add_argument("--converted", type=Path, required=True, help="the benchmark's manifest")
    parser.add_argument("--raw", type=Path, required=True, help="folder of its images")
    parser.add_argument("--predictions", type=Path, required=True, help="answers to write")
    parser.add_argument("--hardware", type=Path, required=True, help="hardware preset (YAML)")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    parser.add_argument(
        "--shuffle-images",
        type=int,
        metavar="SEED",
        help="pair each question with another sample's image: what is answered without looking",
    )
    arguments = parser.parse_args(argv)
    options = arguments.options
    hardware = load_hardware(arguments.hardware)
    samples = read_benchmark(arguments.converted)
    read_json(arguments.model_manifest)
    lean.without(*lean.HEAVY)
    import torch

    from shardline.inference import (
        Answerer,
        Prompter,
        answer_items,
        benchmark_items,
        choose_dtype,
    )

    torch.set_num_threads(arguments.threads)
    lean.quiet()
    family = registry.load("families", options["family"], options.get("plugins", ()))
    family = family_of_model(family, arguments.model)
    task = registry.load("tasks", options["task"], options.get("plugins", ()))
    tokenizer = family.load_tokenizer(arguments.model)
    dtype = choose_dtype(hardware.precision, arguments.model)
    model = family.load_model(arguments.model, dtype, hardware.device)
    prompter = Prompter(family, task, tokenizer, options["tokens"], arguments.raw)
    answerer = Answerer(model, family, tokenizer, options["max_new_tokens"])
    wanted = benchmark_items(samples, options.get("limit"), arguments.shuffle_images)
    write_jsonl(
        arguments.predictions,
        (
            {
                "item": item.name,
                "sample": item.sample.id,
                "question": item.sample.boxes[item.index].label,
                "answer": answer.text,
                "seen": answer.seen,
                "new_tokens": answer.new_tokens,
            }
            for item, answer in answer_items(
                wanted, prompter, answerer, hardware.generation_batch, _say
            )
        ),
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run_program(main)
