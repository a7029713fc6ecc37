"""How the quality classifier learns.

All layers learn with Adam, from the cross-entropy in which both classes weigh the same, however
many images each has. The learning rate is divided by ten when the loss on the validation images
has not fallen for ``patience`` epochs, and at the fourth such time the training ends: it goes on
while something is learnt, whereas a rate that is divided every ten epochs, as upstream's, is below
1e-8 from epoch 50 on. Kept are the weights of the lowest validation loss; of few images, the
accuracy has too many ties. Sets without validation images are judged by the training loss and keep
the last weights.

Whatever is random follows from the seed, the epoch and the image's hash, so that on the CPU the
same images and options give the same bytes, with any number of loader processes. A training that
was killed goes on from the last epoch it saved, to the same bytes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from shardline.classifier import network
from shardline.classifier.labelled import Labelled
from shardline.classifier.measures import measure
from shardline.classifier.pixels import Augmented, seed_of
from shardline.errors import DataError
from shardline.files import atomic_file
from shardline.hardware import Hardware

DROP = 0.1  # of the learning rate
DROPS = 3
SAVE_SECONDS = 60.0  # between two checkpoints, unless the hardware preset's steps come first


@dataclass
class Progress:
    """Where a training stands after its last epoch."""

    epoch: int = 0
    rate: float = 0.0
    drops: int = 0
    stale: int = 0
    lowest: float = math.inf
    best_epoch: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)


class Training:
    """One training: model, optimiser and progress."""

    def __init__(
        self,
        options: dict[str, Any],
        data: Labelled,
        parts: dict[str, list[int]],
        pixels: np.ndarray,
        hardware: Hardware,
    ) -> None:
        self.options = options
        self.parts = parts
        self.pixels = pixels
        self.hardware = hardware
        self.device = hardware.device
        self.targets = torch.tensor(data.targets)
        self.augmented = Augmented(pixels, data.sha256, options["seed"])
        counts = np.bincount([data.targets[place] for place in parts["train"]], minlength=2)
        self.weights = (len(parts["train"]) / (2 * counts)).tolist()
        self.loss = nn.CrossEntropyLoss(torch.tensor(self.weights).float().to(self.device))
        torch.manual_seed(options["seed"])
        self.model = network.build(options["architecture"]).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), weight_decay=options["weight_decay"]
        )
        self.progress = Progress(rate=options["learning_rate"])

    def run(self, state: Path) -> None:
        """Train to the end, from what ``state`` holds if it is there."""
        if state.is_file():
            self._load(state)
        saved, steps = time.monotonic(), 0
        loader = DataLoader(
            self.augmented,
            batch_sampler=self._keys(self.progress.epoch + 1),
            num_workers=self.hardware.workers,
            collate_fn=np.stack,
        )
        squares = iter(loader)
        while not self._is_done():
            self._train_epoch(squares)
            steps += len(self._batches(0))
            due = steps >= self.hardware.checkpoint_every
            if due or time.monotonic() - saved >= SAVE_SECONDS:
                self._save(state)
                saved, steps = time.monotonic(), 0

    def _is_done(self) -> bool:
        return self.progress.epoch == self.options["epochs"] or self.progress.drops > DROPS

    def _keys(self, first: int) -> Iterator[list[tuple[int, int]]]:
        """What the loader loads from epoch ``first`` on: a list of (epoch, image) a batch."""
        for epoch in range(first, self.options["epochs"] + 1):
            for batch in self._batches(epoch):
                yield [(epoch, image) for image in batch]

    def _train_epoch(self, squares: Iterator[np.ndarray]) -> None:
        progress = self.progress
        progress.epoch += 1
        torch.manual_seed(seed_of(self.options["seed"], progress.epoch, "dropout"))
        for group in self.optimizer.param_groups:
            group["lr"] = progress.rate
        self.model.train()
        losses, hits, weight = 0.0, 0, 0.0
        for places, pixels in zip(self._batches(progress.epoch), squares, strict=False):
            targets = self.targets[places].to(self.device)
            output = self.model(network.as_input(pixels, self.device))
            loss = self.loss(output, targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            share = sum(self.weights[target] for target in targets.tolist())
            losses, weight = losses + loss.item() * share, weight + share
            hits += int((output.argmax(1) == targets).sum())
        line = {
            "epoch": progress.epoch,
            "learning_rate": progress.rate,
            "train_loss": losses / weight,
            "train_accuracy": hits / len(self.parts["train"]),
            **self._validate(),
        }
        self._note(line)

    def _batches(self, epoch: int) -> list[list[int]]:
        """The training images in an order of their own each epoch, in batches of even size.

        No batch is of a single image, whose normalisation over the batch is undefined.
        """
        places = np.array(self.parts["train"])
        order = np.random.default_rng(seed_of(self.options["seed"], epoch, "order"))
        count = -(-len(places) // self.options["batch"])
        return [part.tolist() for part in np.array_split(order.permutation(places), count)]

    def _validate(self) -> dict[str, float | None]:
        places = self.parts["validation"]
        if not places:
            return {"validation_loss": None, "validation_accuracy": None}
        output, targets = self._outputs(places), self.targets[places]
        loss = nn.functional.cross_entropy(output, targets, torch.tensor(self.weights).float())
        hits = int((output.argmax(1) == targets).sum())
        return {"validation_loss": loss.item(), "validation_accuracy": hits / len(places)}

    def _outputs(self, places: list[int]) -> torch.Tensor:
        """The outputs (n, 2) for these images, as they are."""
        self.model.eval()
        size = self.options["batch"]
        parts = [places[start : start + size] for start in range(0, len(places), size)]
        found = [network.forward(self.model, self.pixels[part], self.device) for part in parts]
        return torch.cat(found) if found else torch.zeros(0, 2)

    def _note(self, line: dict[str, Any]) -> None:
        """Judge an epoch: are these the best weights, and is the learning rate too high?"""
        progress = self.progress
        progress.curves.append(line)
        losses = [line[key] for key in ("train_loss", "validation_loss") if line[key] is not None]
        if not all(map(math.isfinite, losses)):
            raise DataError(f"epoch {line['epoch']}: the loss is {losses}; lower learning_rate")
        judged = losses[-1]
        improved = judged < progress.lowest
        if improved:
            progress.lowest, progress.stale = judged, 0
        else:
            progress.stale += 1
            if progress.stale >= self.options["patience"]:
                progress.rate, progress.stale = progress.rate * DROP, 0
                progress.drops += 1
        if improved or line["validation_loss"] is None:
            progress.best_epoch = progress.epoch
            state = self.model.state_dict()
            progress.best = {name: value.cpu().clone() for name, value in state.items()}
        say(
            f"epoch {line['epoch']}: "
            + ", ".join(f"{k} {v:.4g}" for k, v in line.items() if k != "epoch" and v is not None)
        )

    def _save(self, state: Path) -> None:
        values = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }
        with atomic_file(state) as file:
            torch.save(values, file)

    def _load(self, state: Path) -> None:
        values = torch.load(state, map_location=self.device, weights_only=True)
        self.model.load_state_dict(values["model"])
        self.optimizer.load_state_dict(values["optimizer"])
        self.progress = Progress(**values["progress"])
        self.progress.best = {name: value.cpu() for name, value in self.progress.best.items()}
        say(f"going on after epoch {self.progress.epoch}")

    def report(self) -> dict[str, Any]:
        """What was learnt, how, and how well the kept weights do on each part."""
        self.model.load_state_dict(self.progress.best)
        measures = {}
        for part, places in self.parts.items():
            scores = self._outputs(places).double().softmax(1)[:, 1].tolist()
            measures[part] = measure(scores, self.targets[places].tolist())
        return {
            "class_weights": dict(zip(("bad", "good"), self.weights, strict=True)),
            "epochs": self.progress.epoch,
            "best_epoch": self.progress.best_epoch,
            "curves": self.progress.curves,
            "measures": measures,
            "notes": self._notes(),
        }

    def _notes(self) -> list[str]:
        notes = []
        if not self.parts["validation"]:
            notes.append(
                "too few images for validation: the training loss decides on the learning rate, "
                "and the last weights are kept"
            )
        if not self.parts["test"]:
            notes.append("too few images for a test: nothing says how well this generalises")
        return notes


def say(message: str) -> None:
    """Tell whoever watches; the log has it too."""
    print(message, file=sys.stderr, flush=True)
