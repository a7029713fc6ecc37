"""The Trainer of transformers with our checkpoints: what is trained, whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from shardline.errors import GateError
from shardline.files import naming_full_disk
from shardline.training import checkpoints, random_state
from shardline.training.journal import Journal

TRAINED = "trained.safetensors"


class CheckpointingTrainer(Trainer):
    """Saves a step whole or not at all, and the last finished one after an error."""

    say: Callable[[str], None]
    journal: Journal | None = None
    saved: int | None = None
    """The last step with a checkpoint, of this rank."""
    _whole: random_state.State | None = None
    """Random state after the last finished step; None while the model is not in one piece."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained; DeepSpeed's own checkpoint has it already."""
        if self.is_deepspeed_enabled or not self.args.should_save:
            return
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: parameter.detach().contiguous().cpu()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
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
            checkpoints.seal(work / f"checkpoint-{step}", step=step)
            checkpoints.prune(work)
        self.saved = step

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        self.restore(Path(resume_from_checkpoint))

    def restore(self, checkpoint: Path) -> None:
        """Put what was trained back into the model.

        Raises:
            GateError: the checkpoint is of other parameters than those trained now.
        """
        tensors = load_file(checkpoint / TRAINED)
        trained = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        if tensors.keys() != trained.keys():
            raise GateError(f"{checkpoint}: its parameters are not those that are trained now")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(tensors[name])

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

    def whole_state(self) -> dict[str, torch.Tensor]:
        """The model's state dict, gathered where ranks hold parts of it (all must call this)."""
        if any(hasattr(parameter, "ds_id") for parameter in self.model.parameters()):
            return self.accelerator.get_state_dict(self.model_wrapped)
        return self.model.state_dict()
