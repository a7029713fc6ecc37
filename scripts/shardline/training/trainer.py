"""The Trainer of transformers, driven by a plan: data by step, exact loss, journal, checkpoints.

What is ours: packs come from the plan and are never resharded; the loss of a step is the sum over
its supervised tokens divided by their number in the whole step, over accumulation and ranks; each
module has its learning rate; a checkpoint has only what is trained; a request to stop saves within
a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from shardline.errors import GateError
from shardline.training import checkpoints, random_state
from shardline.training.continued import take_optimizer
from shardline.training.metrics import StepMeter
from shardline.training.optimizers import class_and_options
from shardline.training.packs import Row, token_losses
from shardline.training.saving import CheckpointingTrainer
from shardline.training.validation import LOSS

SPEAK_EVERY = 5.0  # seconds between two lines of the log


class PlanTrainer(CheckpointingTrainer):
    """Trains a model on the packs of a plan.

    Args:
        rows: from a 0-based step on, this rank's rows in order: for each step as many as
            ``args.gradient_accumulation_steps`` (one without supervised tokens adds nothing).
        meter: knows what each step has.
        groups: the optimiser's parameter groups (`tuning.parameter_groups`).
        optimizer_options: see `optimizers.class_and_options`.
        factor: of the learning rate, by 0-based step.
        stop: says in one word why to stop after the current step, or nothing.
        say: takes the lines of the log.
        look: sees each of this rank's rows before the step that it is for.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        *,
        family: Any,
        rows: Callable[[int], Generator[Row]],
        meter: StepMeter,
        groups: list[dict[str, Any]],
        optimizer_options: Mapping[str, Any],
        factor: Callable[[int], float],
        stop: Callable[[], str],
        say: Callable[[str], None],
        look: Callable[[Row], None] = lambda row: None,
    ) -> None:
        super().__init__(model=model, args=args)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Steps(self))
        self.family = family
        self.meter = meter
        self.say = say
        self._look = look
        self._stop = stop
        self.parent: Path | None = None
        self.ended = ""
        self._rows = rows
        self._reading: Generator[Row] = (row for row in ())
        self._groups = groups
        self._optimizer_options = optimizer_options
        self._factor = factor
        self._rates: dict[str, float] = {}
        self._norm: torch.Tensor | float = 0.0
        self._begun = self._spoken = 0.0
        self._first_step = 0

    def get_train_dataloader(self) -> Iterator[Row]:
        """This rank's rows from the step to begin with, as the plan has them."""
        self._reading = self._rows(self._first_step)
        return self._reading

    def get_batch_samples(
        self, epoch_iterator: Iterator[Row], num_batches: int, device: torch.device
    ) -> tuple[list[Row], None]:
        """The rows of one step; the number of supervised tokens is the plan's."""
        self._whole = random_state.take()
        rows = self.meter.take(epoch_iterator, num_batches)
        for row in rows:
            self._look(row)
        return rows, None

    def training_step(
        self, model: torch.nn.Module, inputs: Row, num_items_in_batch: None = None
    ) -> torch.Tensor:
        """Forward and backward of one row; its share of the step's loss."""
        model.train()
        self.meter.row = inputs
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        self.accelerator.backward(loss, **options)
        self.meter.row = None
        return loss.detach()

    def compute_loss(self, model: torch.nn.Module, inputs: Row, **_: Any) -> torch.Tensor:
        """The row's summed cross entropy over the supervised tokens of the whole step.

        Multiplied by the number of ranks, over which gradients are averaged.
        """
        losses = token_losses(model, self.family, inputs)
        self.meter.add(inputs, losses)
        loss = losses.sum()
        if not self.is_deepspeed_enabled and not inputs["media_types"]:
            loss = loss + self._nothing(model)
        total = self.meter.totals[self.state.global_step].supervised
        return loss * (self.args.world_size / max(total, 1))

    def _nothing(self, model: torch.nn.Module) -> torch.Tensor:
        """Zero, depending on all that only media reach: it has a gradient in each forward.

        Ranks wait for all gradients, and AdamW leaves a parameter alone that has none: a step would
        depend on which rank, or row, has its media. With DeepSpeed, rows have media instead.
        """
        return sum(
            parameter.flatten()[:1].sum() * 0.0
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and self.family.module_of(name) != "llm"
        )

    def floating_point_ops(self, inputs: Row) -> int:
        """Not estimated: the journal has tokens and seconds."""
        return 0

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The recipe's optimiser over the groups of `tuning.parameter_groups`."""
        if self.optimizer is None:
            self.optimizer_cls_and_kwargs = class_and_options(
                self.args, self._optimizer_options, self._groups
            )
            super().create_optimizer(model)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """One factor for all modules."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_grad_norm(self, *args: Any, **options: Any) -> torch.Tensor | float:
        self._norm = super()._get_grad_norm(*args, **options)
        return self._norm

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        """Train to the plan's last step, or until asked to stop.

        An error in a step leaves a checkpoint of the last finished one, if this process has the
        whole model. Among several ranks none is written: the others may not take part any more.
        """
        if resume_from_checkpoint:
            self._first_step = self.saved = checkpoints.step_of(Path(resume_from_checkpoint))
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        except Ended:
            return None
        except Exception:
            if self.args.world_size == 1 and not self.is_deepspeed_enabled:
                self.keep_last_step()
            raise
        finally:
            self._reading.close()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Nothing: `finish_step` writes the journal."""

    def finish_step(self) -> bool:
        """Journal the step that has just ended; whether any rank was asked to stop.

        Raises:
            GateError: the loss or the gradient is not finite.
        """
        step = self.state.global_step
        gather = self.accelerator.gather if self.args.world_size > 1 else lambda own: own
        done = self.meter.finish(
            step, self._tr_loss, self._norm, self._rates, bool(self._stop()), gather
        )
        self._tr_loss.zero_()
        loss, norm = done.metrics["loss"], done.metrics["grad_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise GateError(
                f"step {step}: loss {loss}, gradient norm {norm}"
                f"{self.meter.diverged(done.metrics)}: training has diverged. Lower the learning "
                "rate or clip gradients; the last checkpoint is from before this step"
            )
        if self.journal:
            self.journal.add(step, done.metrics)
        self._whole = random_state.take()
        now = time.monotonic()
        last = step == self.args.max_steps
        if last or step == self._first_step + 1 or now - self._spoken >= SPEAK_EVERY:
            self._spoken = now
            self._speak(step, loss, norm, now)
        return done.stop

    def _speak(self, step: int, loss: float, norm: float, now: float) -> None:
        done = step - self._first_step
        passed = now - self._begun
        tokens = sum(totals.tokens for totals in self.meter.totals[self._first_step : step])
        left = timedelta(seconds=round(passed / done * (self.args.max_steps - step)))
        self.say(
            f"step {step}/{self.args.max_steps}  loss {loss:.4f}  grad {norm:.2f}  "
            f"{tokens / passed:,.0f} tokens/s  left {left}"
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validate the step that has just ended; a new best one is saved, a fruitless one the last.

        A request to stop ends the validation, too; the resumed run begins with it then.
        """
        begun = time.monotonic()
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
        self._begun += time.monotonic() - begun
        return found

    def stop_anywhere(self) -> bool:
        """Whether any rank was asked to stop: all must do so, or none."""
        asked = bool(self._stop())
        if self.args.world_size > 1:
            flag = torch.tensor([float(asked)], device=self.args.device)
            torch.distributed.all_reduce(flag)
            asked = bool(flag.item())
        return asked

    def begin(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def begin_update(self) -> None:
        """Note what the optimiser is about to change: the learning rates, and all weights."""
        self._whole = None
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
        self.trainer.begin_update()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        validation, last = self.trainer.validation, state.global_step == args.max_steps
        stop = self.trainer.finish_step()
        if stop:
            control.should_save = control.should_training_stop = True
        if validation and validation.due(state.global_step):
            control.should_evaluate = last or not stop
        control.should_save |= state.global_step in self.trainer.named_steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()
        self.trainer.seal()
