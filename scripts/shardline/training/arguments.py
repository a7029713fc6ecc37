"""How the Trainer of transformers is set up for a stage on this hardware."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from shardline import lean
from shardline.devices import repeatable
from shardline.training import extensions, launch
from shardline.training.inputs import Stage


def prepare(stage: Stage, ranks: int) -> torch.device:
    """Choose this rank's device, join the other ranks and make what follows repeatable."""
    lean.quiet()
    hardware = stage.hardware
    if hardware.debug:
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    torch.set_num_threads(max(1, stage.threads // ranks - hardware.workers))
    device = repeatable(hardware.device)
    if hardware.deepspeed:
        extensions.prepare(hardware)
    launch.join_ranks(_backend(stage))
    if hardware.deepspeed:
        import deepspeed

        # Loading a model in parts asks DeepSpeed, and not torch, how many ranks there are.
        deepspeed.init_distributed(_backend(stage), auto_mpi_discovery=False)
    return device


def trainer_arguments(
    stage: Stage, accumulation: int, micro_batch: int, steps: int, config: Mapping[str, Any] | None
) -> TrainingArguments:
    """The Trainer's arguments.

    From here to their end, transformers loads models in parts if ``config`` is of ZeRO 3.

    Args:
        config: of DeepSpeed.
    """
    hardware, options = stage.hardware, stage.options
    arguments = TrainingArguments(
        output_dir=str(stage.work),
        max_steps=steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=options["optimizer"]["clip"] or 0.0,
        seed=options["seed"],
        bf16=options["precision"] == "bf16",
        use_cpu=hardware.device == "cpu",
        ddp_backend=_backend(stage) if launch.in_rank() else None,
        ddp_find_unused_parameters=False,
        deepspeed=config,
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


def _backend(stage: Stage) -> str:
    return "gloo" if stage.hardware.device == "cpu" else "nccl"
