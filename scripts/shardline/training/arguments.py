"""How the Trainer of transformers is set up for a stage on this hardware."""

from __future__ import annotations

import os

import torch
from transformers import TrainingArguments

from shardline import lean
from shardline.devices import repeatable
from shardline.training.inputs import Stage


def prepare(stage: Stage, ranks: int) -> torch.device:
    """Choose this rank's device and make what follows repeatable."""
    lean.quiet()
    if stage.hardware.debug:
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    torch.set_num_threads(max(1, stage.threads // ranks - stage.hardware.workers))
    return repeatable(stage.hardware.device)


def trainer_arguments(stage: Stage, accumulation: int, steps: int) -> TrainingArguments:
    hardware, options = stage.hardware, stage.options
    backend = "gloo" if hardware.device == "cpu" else "nccl"
    arguments = TrainingArguments(
        output_dir=str(stage.work),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=options["optimizer"]["clip"] or 0.0,
        seed=options["seed"],
        bf16=options["precision"] == "bf16",
        use_cpu=hardware.device == "cpu",
        ddp_backend=backend if hardware.ranks > 1 else None,
        ddp_find_unused_parameters=False,
        deepspeed=hardware.deepspeed,
        save_strategy="steps",
        save_steps=hardware.checkpoint_every,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        ignore_data_skip=True,
    )
    # Without this the Trainer spreads a single process over all GPUs it sees (DataParallel).
    _ = arguments.device
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
