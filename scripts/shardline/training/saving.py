"""The Trainer of transformers with our checkpoints: what is trained, whole or not there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from transformers import Trainer

from shardline.files import naming_full_disk
from shardline.training import checkpoints, random_state
from shardline.training.gathered import take_trained, trained_tensors
from shardline.training.journal import Journal
from shardline.training.outcome import TRAINED
from shardline.training.validation import Validation


class CheckpointingTrainer(Trainer):
    """Saves a step whole or not at all, and the last finished one after an error."""

    say: Callable[[str], None]
    journal: Journal | None = None
    validation: Validation | None = None
    keep_checkpoints: int | Literal["all"] = 2
    named_steps: Collection[int] = ()
    """Steps whose checkpoints stay, whatever else does."""
    saved: int | None = None
    """The last step with a checkpoint, of this rank."""
    restored: dict[str, torch.Tensor]
    """What is trained, as `restore` has read it; empty again when training goes on from it."""
    _whole: random_state.State | None = None
    """Random state after the last finished step; None while the model is not in one piece."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.restored = {}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained, whole, also where DeepSpeed has it in parts."""
        tensors = trained_tensors(self.model, keep=self.args.should_save)
        if self.args.should_save:
            folder = Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / TRAINED, metadata={"format": "pt"})

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        try:
            with naming_full_disk(Path(self.args.output_dir)):
                super()._save_checkpoint(model, trial)
        except Exception:
            self._whole = None
            if self.args.world_size == 1:
                checkpoints.discard(Path(self.args.output_dir), self.state.global_step)
            raise

    def seal(self) -> None:
        """Declare the step's checkpoint whole, on the rank that keeps the work folder."""
        step, work = self.state.global_step, Path(self.args.output_dir)
        if self.args.should_save:
            if self.journal:
                self.journal.sync()
            facts, named = {"step": step, **self.parts()}, set(self.named_steps)
            if self.validation:
                facts["validations"] = list(map(list, self.validation.losses.items()))
                named |= {best.step} if (best := self.validation.best()) else set()
            checkpoints.seal(work / f"checkpoint-{step}", **facts)
            checkpoints.prune(work, self.keep_checkpoints, self.args.save_steps, named)
        self.saved = step

    def parts(self) -> dict[str, int]:
        """In how many parts DeepSpeed saves the optimiser; nothing without it."""
        if not self.is_deepspeed_enabled:
            return {}
        stage = self.args.hf_deepspeed_config.get_value("zero_optimization.stage", 0)
        return {"ranks": self.args.world_size, "zero_stage": stage}

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        self.restore(Path(resume_from_checkpoint))
        self.restored = {}

    def restore(self, checkpoint: Path) -> None:
        """Put what was trained back into the model.

        Raises:
            GateError: the checkpoint is of other parameters than those trained now.
        """
        self.restored = take_trained(self.model, checkpoint)

    def keep_last_step(self) -> None:
        """Save the last finished step, with the random state that its successor began with."""
        step = self.state.global_step
        if self._whole is None or step in (0, self.saved):
            return
        random_state.put_back(self._whole)
        try:
            self._save_checkpoint(self.model, None)
            self.seal()
        except Exception as error:  # the error that ended the step is the one to be told
            checkpoints.discard(Path(self.args.output_dir), step)
            self.say(f"step {step} could not be saved: {error}; the last checkpoint stands")
        else:
            self.say(f"saved at step {step} of {self.args.max_steps}, the last that was finished")
