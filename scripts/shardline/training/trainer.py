"""The Trainer of transformers, driven by a plan: data by step, exact loss, journal, checkpoints.

What is ours: packs come from the plan and are never resharded; the loss of a step is the sum over
its supervised tokens divided by their number in the whole step, over accumulation and ranks; each
module has its learning rate; a checkpoint has only what is trained; a request to stop saves within
a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from shardline.errors import GateError
from shardline.files import naming_full_disk
from shardline.training import checkpoints
from shardline.training.continued import take_optimizer
from shardline.training.journal import Journal
from shardline.training.outcome import TRAINED
from shardline.training.packs import Row, token_losses
from shardline.training.validation import LOSS, Validation
from shardline.training.weights import take_trained

SPEAK_EVERY = 5.0  # seconds between two lines of the log


class StepTotals(NamedTuple):
    """What one global step has in all its packs, over all ranks."""

    tokens: int
    supervised: int
    samples: int


class PlanTrainer(Trainer):
    """Trains a model on the packs of a plan.

    Args:
        rows: from a 0-based step on, this rank's rows in order: for each step as many as
            ``args.gradient_accumulation_steps`` (one without supervised tokens adds nothing).
        totals: of each step.
        groups: the optimiser's parameter groups (`tuning.parameter_groups`).
        optimizer_options: ``betas``, ``eps``.
        factor: of the learning rate, by 0-based step.
        stop: says in one word why to stop after the current step, or nothing.
        say: takes the lines of the log.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        *,
        family: Any,
        rows: Callable[[int], Iterable[Row]],
        totals: Sequence[StepTotals],
        groups: list[dict[str, Any]],
        optimizer_options: Mapping[str, Any],
        factor: Callable[[int], float],
        stop: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(model=model, args=args)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Steps(self))
        self.family = family
        self.totals = totals
        self.say = say
        self._stop = stop
        self.journal: Journal | None = None
        self.validation: Validation | None = None
        self.parent: Path | None = None
        self.keep_checkpoints: int | Literal["all"] = 2
        self.named_steps: Collection[int] = ()
        self.ended = ""
        self._rows = rows
        self._groups = groups
        self._optimizer_options = optimizer_options
        self._factor = factor
        self._rates: dict[str, float] = {}
        self._started = self._spoken = 0.0
        self._first_step = 0
        self._samples = 0

    def get_train_dataloader(self) -> Iterator[Row]:
        """This rank's rows from the step to begin with, as the plan has them."""
        return iter(self._rows(self._first_step))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Row], num_batches: int, device: torch.device
    ) -> tuple[list[Row], None]:
        """The rows of one step; the number of supervised tokens is the plan's."""
        return [next(epoch_iterator) for _ in range(num_batches)], None

    def training_step(
        self, model: torch.nn.Module, inputs: Row, num_items_in_batch: None = None
    ) -> torch.Tensor:
        """Forward and backward of one row; its share of the step's loss."""
        model.train()
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        self.accelerator.backward(loss, **options)
        return loss.detach()

    def compute_loss(self, model: torch.nn.Module, inputs: Row, **_: Any) -> torch.Tensor:
        """The row's summed cross entropy over the supervised tokens of the whole step.

        Multiplied by the number of ranks, over which gradients are averaged.
        """
        loss = token_losses(model, self.family, inputs).sum()
        if self.args.world_size > 1 and not inputs["media_types"]:
            loss = loss + self._nothing(model)
        total = self.totals[self.state.global_step].supervised
        return loss * (self.args.world_size / max(total, 1))

    def _nothing(self, model: torch.nn.Module) -> torch.Tensor:
        """Zero, depending on all that only media reach: every rank must have its gradients."""
        return sum(
            parameter.flatten()[:1].sum() * 0.0
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and self.family.module_of(name) != "llm"
        )

    def floating_point_ops(self, inputs: Row) -> int:
        """Not estimated: the journal has tokens and seconds."""
        return 0

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the groups of `tuning.parameter_groups`."""
        if self.optimizer is None:
            options = self._optimizer_options
            self.optimizer = torch.optim.AdamW(
                self._groups, betas=tuple(options["betas"]), eps=float(options["eps"]), fused=True
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """One factor for all modules."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        """Train to the plan's last step, or until asked to stop."""
        if resume_from_checkpoint:
            self._first_step = checkpoints.step_of(Path(resume_from_checkpoint))
        self._samples = sum(step.samples for step in self.totals[: self._first_step])
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        except Ended:
            return None

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
        with naming_full_disk(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)

    def seal(self) -> None:
        """Declare the checkpoint of the last finished step complete, and remove older ones."""
        if not self.args.should_save:
            return
        work, step = Path(self.args.output_dir), self.state.global_step
        facts, named = {"step": step}, set(self.named_steps)
        if self.validation:
            facts["validations"] = [list(item) for item in self.validation.losses.items()]
            named |= {best.step} if (best := self.validation.best()) else set()
        checkpoints.seal(work / f"checkpoint-{step}", **facts)
        checkpoints.prune(work, self.keep_checkpoints, self.args.save_steps, named)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        self.restore(Path(resume_from_checkpoint))

    def restore(self, checkpoint: Path) -> None:
        """Put what was trained back into the model.

        Raises:
            GateError: the checkpoint is of other parameters than those trained now.
        """
        take_trained(self.model, checkpoint)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Journal the step that has just ended."""
        if "loss" not in logs:
            return
        step, now = self.state.global_step, time.monotonic()
        loss, norm = logs["loss"], float(logs.get("grad_norm", 0.0))
        if not (abs(loss) < float("inf") and abs(norm) < float("inf")):
            raise GateError(
                f"step {step}: loss {loss}, gradient norm {norm}: training has diverged. Lower "
                "the learning rate or clip gradients; the last checkpoint is from before this step"
            )
        totals, seconds = self.totals[step - 1], now - self._started
        self._samples += totals.samples
        if self.journal:
            metrics = {
                "loss": loss,
                "grad_norm": norm,
                "tokens_per_second": totals.tokens / seconds,
                "samples": self._samples,
                "seconds": seconds,
            }
            self.journal.add(step, metrics | {f"lr/{k}": v for k, v in self._rates.items()})
        last = step == self.args.max_steps
        if last or step == self._first_step + 1 or now - self._spoken >= SPEAK_EVERY:
            self._spoken = now
            self._speak(step, loss, norm, now)
        self._started = now

    def _speak(self, step: int, loss: float, norm: float, now: float) -> None:
        done = step - self._first_step
        passed = now - self._begun
        tokens = sum(totals.tokens for totals in self.totals[self._first_step : step])
        left = timedelta(seconds=round(passed / done * (self.args.max_steps - step)))
        self.say(
            f"step {step}/{self.args.max_steps}  loss {loss:.4f}  grad {norm:.2f}  "
            f"{tokens / passed:,.0f} tokens/s  left {left}"
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validate the step that has just ended; a new best one is saved, a fruitless one the last.

        A request to stop ends the validation, too; the resumed run begins with it then.
        """
        self.control.should_evaluate = False
        step, last = self.state.global_step, self.state.global_step == self.args.max_steps
        stop = (lambda: False) if last else self.stop_anywhere
        found = self.validation.run(self.model_wrapped, step, stop)
        if found is None:
            self.control.should_save = self.control.should_training_stop = True
            return {}
        if self.journal:
            self.journal.add(step, found)
        best, self.ended = self.validation.best(), self.validation.reason_to_stop()
        said = f"lowest {best.loss:.4f} at step {best.step}"
        self.say(f"step {step}/{self.args.max_steps}  validation loss {found[LOSS]:.4f}  {said}")
        if self.ended:
            self.say(f"step {step}: training ends here: {self.ended}")
            self.control.should_training_stop = True
        self.control.should_save |= bool(self.ended) or best.step == step
        self._started = time.monotonic()
        return found

    def stop_anywhere(self) -> bool:
        """Whether any rank was asked to stop: all must leave the loop at the same step."""
        asked = bool(self._stop())
        if self.args.world_size > 1:
            flag = torch.tensor([float(asked)], device=self.args.device)
            torch.distributed.all_reduce(flag)
            asked = bool(flag.item())
        return asked

    def whole_state(self) -> dict[str, torch.Tensor]:
        """The model's state dict, gathered where ranks hold parts of it (all must call this)."""
        if any(hasattr(parameter, "ds_id") for parameter in self.model.parameters()):
            return self.accelerator.get_state_dict(self.model_wrapped)
        return self.model.state_dict()

    def begin(self) -> None:
        """Start the clock."""
        self._begun = self._started = time.monotonic()

    def note_rates(self) -> None:
        """Remember the learning rates of the step that is about to be taken, by module."""
        self._rates = {
            group["name"].split("/")[0]: float(group["lr"]) for group in self.optimizer.param_groups
        }


class Ended(Exception):
    """Nothing is trained: the validation that a resumed training begins with ended it."""


class _Steps(TrainerCallback):
    """What happens at fixed places of the Trainer's loop."""

    def __init__(self, trainer: PlanTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        if trainer.parent and not state.global_step:
            take_optimizer(trainer.optimizer, trainer.parent)
        if trainer.validation and trainer.validation.due(state.global_step):
            trainer.evaluate()
            if control.should_training_stop:
                raise Ended
        trainer.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.note_rates()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        validation, last = self.trainer.validation, state.global_step == args.max_steps
        stop = self.trainer.stop_anywhere()
        if stop:
            control.should_save = control.should_training_stop = True
        if validation and validation.due(state.global_step):
            control.should_evaluate = last or not stop
        control.should_save |= state.global_step in self.trainer.named_steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()
        self.trainer.seal()
