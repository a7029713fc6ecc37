"""Outputs of a frozen vision tower: computed once, and taken by a forward in place of pictures.

They are taken at one of two points of the model, one row a visual token at both: ``tower`` is what
the projector reads (Qwen-VL: the token's four patches side by side, in the order of the tokens;
LLaVA: the selected layer, without the class token), ``projected`` is what the projector makes of
it, which the language model reads.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from shardline.attention import sent, vision_segments
from shardline.features import Features, Medium

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def vision_keywords(
    family: Any,
    images: Sequence[torch.Tensor],
    grids: Sequence[Any],
    device: torch.device | str,
    types: Sequence[int] | None = None,
    segments: bool = True,
) -> dict[str, Any]:
    """The forward keywords of media.

    Args:
        images: uint8 [height, width, 3], as `vision_inputs` of the family takes them.
        types: 1 for an image, 2 for a video; None: all are images.
        segments: tell the vision tower its segments at once, where the family has them.
    """
    inputs = family.vision_inputs(images, grids, device, torch.float32, types)
    types = [1] * len(images) if types is None else types
    for kind, name in enumerate(("image", "video"), start=1) if segments else ():
        chosen = [grid for grid, this in zip(grids, types, strict=True) if this == kind]
        if chosen and family.ATTENDS_WITHIN_FRAMES:
            places = sent(torch.from_numpy(family.patch_places(chosen)), device)
            # Sizes on the host: the tower asks for them, which would wait for the device.
            sizes = torch.tensor(chosen, dtype=torch.int64)
            inputs |= {f"{name}_grid_thw": sizes, f"{name}_position_ids": places}
            inputs |= vision_segments(chosen, device, name)
        elif chosen and getattr(family, "ATTENDS_WITHIN_WINDOWS", False):
            inputs[f"{name}_longest_segment"] = max(height * width for _, height, width in chosen)
    return inputs


class VisionTower:
    """The vision part of a model, up to a point; callable from several threads."""

    def __init__(self, model: torch.nn.Module, family: Any, point: str, precision: str) -> None:
        """Share the model's weights, but not those of its language model.

        Args:
            precision: ``fp32``, or ``bf16`` as training has it: weights and autocast.
        """
        self._family = family
        self._half = precision == "bf16"
        self._model = _twin(model.model, "language_model", None)
        if point == "tower":
            self._model = _twin(self._model, family.PROJECTOR, _PassOn(family.MERGE**2))

    def to(self, device: torch.device) -> VisionTower:
        """Move it to where it shall run."""
        self._model.to(device)
        return self

    def __call__(self, images: Sequence[torch.Tensor], grids: Sequence[Any]) -> list[torch.Tensor]:
        """Rows [visual tokens, width] of each medium; frames of a video are below one another."""
        device = next(self._model.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, self._half):
            inputs = vision_keywords(self._family, images, grids, device)
            output = self._model.get_image_features(**inputs, return_dict=True).pooler_output
        rows = torch.cat(list(output)).cpu()
        return list(rows.split([self._family.visual_tokens(grid) for grid in grids]))


def _twin(module: torch.nn.Module, part: str, other: Any) -> torch.nn.Module:
    """A module that shares everything with another but the part of this name."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    head, _, rest = part.partition(".")
    twin._modules[head] = _twin(module._modules[head], rest, other) if rest else other
    return twin


class _PassOn(torch.nn.Module):
    """In the projector's place: its input, the ``merged`` rows of a token side by side."""

    def __init__(self, merged: int) -> None:
        super().__init__()
        self.merged = merged

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(-2, (-1, self.merged)).flatten(-2)


def encode_all(
    samples: Iterable[Sequence[Medium]],
    tower: Callable[[Sequence[torch.Tensor], Sequence[Any]], Features],
    patches: int,
    threads: int,
) -> Iterator[Features]:
    """Yield the features of each sample's media, in order.

    Each forward runs on one CPU thread and several beside each other, so that its bits do not
    depend on their number.

    Args:
        samples: the media of each; taken while features are asked for.
        patches: of a forward, at most; a sample that has more gets one of its own.
        threads: forwards at a time.
    """
    waiting: deque[Future[list[Features]]] = deque()
    # Each thread has an OpenMP setting of its own.
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        for batch in _batches(samples, patches):
            waiting.append(pool.submit(_encode, tower, batch))
            if len(waiting) > threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _batches(samples: Iterable[Sequence[Medium]], patches: int) -> Iterator[list[Sequence[Medium]]]:
    batch: list[Sequence[Medium]] = []
    total = 0
    for media in samples:
        size = sum(t * h * w for (t, h, w) in (medium.grid for medium in media))
        if batch and total + size > patches:
            yield batch
            batch, total = [], 0
        batch.append(media)
        total += size
    if batch:
        yield batch


def _encode(tower: Any, batch: Sequence[Sequence[Medium]]) -> list[Features]:
    media = [medium for sample in batch for medium in sample]
    images, grids = [medium.image for medium in media], [medium.grid for medium in media]
    rows = iter(tower(images, grids) if media else [])
    return [[next(rows) for _ in sample] for sample in batch]


def take_features(model: torch.nn.Module, family: Any, point: str) -> None:
    """Make a model's forward take features of ``point`` where it takes pixels; see `stored_inputs`.

    At ``tower`` they go through the projector as it stands at that moment, adapters included.
    """
    inner = model.model
    inner.__class__ = _taking(type(inner))
    inner.takes_features = (
        family.TOWER,
        family.PROJECTOR if point == "tower" else None,
        family.MERGE**2,
    )


@cache
def _taking(model_class: type) -> type:
    """A subclass and no patched instance: a deep copy of the model uses its own projector."""

    class TakesFeatures(model_class):
        def get_image_features(self, pixel_values, *_, **__):
            tower, projector, merged = self.takes_features
            rows = pixel_values.to(next(self.get_submodule(tower).parameters()).dtype)
            if projector:
                rows = self.get_submodule(projector)(rows.unflatten(-1, (merged, -1)).flatten(0, 1))
            return BaseModelOutputWithPooling(pooler_output=[rows])

        def get_video_features(self, pixel_values_videos, *_, **__):
            return self.get_image_features(pixel_values_videos)

    return TakesFeatures
