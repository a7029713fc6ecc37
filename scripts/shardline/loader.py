"""The data of a training: rows of a plan, whatever the number of ranks, micro-batches and workers.

Item ``step * accumulation + micro`` of a rank is one row: the packs of a step are dealt out in
order, row by row over the ranks, so that what a step trains on depends on the plan alone, and
going on after step ``s`` is starting at item ``s * accumulation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from shardline.errors import ConfigError, DataError
from shardline.features import FeatureReader
from shardline.labels import IGNORED
from shardline.media_kinds import MediaKinds, media_kinds
from shardline.merging_family import family_of_plan
from shardline.placeholders import media_types
from shardline.plan_file import Place, read_plan
from shardline.row_padding import cut_tail, pad_row, pad_samples
from shardline.token_reader import TokenReader


class PlanDataset(torch.utils.data.Dataset):
    """Map-style dataset over a plan, for ``DataLoader(dataset, batch_size=None)`` in order."""

    def __init__(
        self,
        results: Path,
        plan: Path,
        parquet: Path,
        family: ModuleType,
        *,
        rank: int = 0,
        ranks: int = 1,
        micro_batch: int = 1,
        accumulation: int | None = None,
        features: Sequence[Path] = (),
        complete: bool = False,
        steady: bool = False,
    ) -> None:
        """Read the plan; shards are opened when their samples are read.

        Args:
            results: the folder that the plan's paths are relative to.
            family: expands placeholders and places positions; bound here to the token merging
                of the plan.
            rank, ranks: which part of each step this process takes.
            micro_batch: packs a row (they stay apart as the samples of one pack do).
            accumulation: rows a step and rank; by default as many as the fullest step needs.
            features: manifests of the vision tower's outputs for the plan's datasets; given any,
                rows have those in place of images, which are not read.
            complete: every row has each kind of media that the plan has; see `media_kinds`.
            steady: rows of fixed length have bounds of a fixed number and one ``max_length_q``.

        Raises:
            ConfigError: the fullest step has more packs than ``ranks * accumulation`` rows hold.
            DataError: the plan's files are damaged, or a shard has no features.
        """
        self.plan = read_plan(plan, parquet)
        needed = -(-self.plan.summary["max_packs_per_step"] // (ranks * micro_batch))
        if accumulation is not None and accumulation < needed:
            raise ConfigError(
                f"{plan}: a step has up to {self.plan.summary['max_packs_per_step']} packs; "
                f"{ranks} ranks with {micro_batch} packs a row need an accumulation of {needed}, "
                f"not {accumulation}"
            )
        self.accumulation = accumulation or needed
        self.rank, self.ranks, self.micro_batch = rank, ranks, micro_batch
        self.family = family_of_plan(family, self.plan.summary)
        self.placeholders = self.plan.summary["placeholder_ids"]
        self.padded = self.plan.summary["packing"] == "none"
        self.kinds: MediaKinds | None = media_kinds(self.plan, results) if complete else None
        fixed = self.plan.summary["fixed_shape"]
        self.row_length = micro_batch * self.plan.summary["max_length"] if fixed else None
        stand_ins = list(self.kinds.smallest.values()) if self.kinds else []
        if self.row_length:
            self.row_length += sum(place.length for place in stand_ins)
        longest = int(self.plan.length.max(initial=1))
        most = int(np.diff(self.plan.pack_starts).max(initial=1)) * micro_batch + len(stand_ins)
        tail = -(-(self.row_length or 0) // longest)
        self.steady = (longest, most + tail) if steady and fixed and not self.padded else None
        shards = self.plan.summary["shards"]
        self.datasets = [Path(shard["path"]).parts[-3] for shard in shards]
        self.reader = TokenReader(results, shards, pictures=not features)
        self.features = FeatureReader(results, shards, features) if features else None

    def __len__(self) -> int:
        return self.plan.steps * self.accumulation

    def __getitem__(self, item: int) -> dict[str, Any]:
        if not 0 <= item < len(self):
            raise IndexError(item)
        return self.row(*divmod(item, self.accumulation))

    def row(self, step: int, micro: int) -> dict[str, Any]:
        """This rank's row number ``micro`` of a step.

        Returns:
            ``input_ids``, ``labels``, ``mm_token_type_ids`` int64 [1, T] (a sample's first label is
            -100: nothing predicts it); ``position_ids`` int64 [1 + rows, 1, T]: positions in the
            sample, then the family's rows of positions; ``cu_seq_lens_q``, ``cu_seq_lens_k`` int32
            [samples + 1]; ``max_length_q``, ``max_length_k`` int; ``samples``: their ids;
            ``lengths``: their tokens; ``datasets``: of each sample; ``packs``: places in the plan;
            ``step``; ``loss_denominator``: supervised tokens of the whole step, over all ranks. Of
            each medium: ``images``: uint8 [height, width, 3], the frames of a video one below the
            other (or in their place ``features``: bfloat16 [visual tokens, width]);
            ``image_grid_thw`` int64 [media, 3]; ``media_types``: 1 for an image, 2 for a video;
            ``intervals``: seconds from frame to frame.

            A row for which the step has no pack left repeats a short sample without labels; its
            ``samples``, ``datasets`` and ``packs`` are empty. A row that must be complete and lacks
            a kind of media gets the plan's smallest sample of it, without labels.

            With ``packing: none`` every sample is padded to the longest of the row. With
            ``fixed_shape`` the row is padded to ``micro_batch * max_length`` tokens by a segment
            of its own.

        Raises:
            DataError: a sample cannot be read, or is not what the plan knows.
        """
        packs = self.plan.packs(step)
        first = packs.start + (micro * self.ranks + self.rank) * self.micro_batch
        mine = range(first, min(first + self.micro_batch, packs.stop))
        places = [place for pack in mine for place in self.plan.samples(pack)]
        known = len(places)
        if self.kinds:
            places += self.kinds.stand_ins(mine)
        if not places:
            somewhere = [place for pack in packs for place in self.plan.samples(pack)]
            places = [min(somewhere, key=lambda place: place.length)]
        row = self._row(places)
        row["labels"][:, int(row["cu_seq_lens_q"][known]) :] = IGNORED
        for name in ("samples", "datasets", "lengths"):
            row[name] = row[name][:known]
        if self.padded:
            row = pad_samples(row)
        if self.row_length:
            row = pad_row(row, self.row_length)
        if self.steady:
            row = cut_tail(row, *self.steady)
        return {
            **row,
            "packs": list(mine),
            "step": step,
            "loss_denominator": self.plan.supervised_of(step),
        }

    def _row(self, places: Sequence[Place]) -> dict[str, Any]:
        input_ids, labels, positions, names = [], [], [], []
        media, grids, types, intervals = [], [], [], []
        for place in places:
            sample = self.reader.read(place.shard, place.row)
            try:
                tokens, targets = self.family.expand(
                    sample.input_ids, sample.labels, sample.grids, self.placeholders
                )
                known = place.length + place.cut
                if len(tokens) != known:
                    raise DataError(f"{len(tokens)} tokens where the plan has {known}")
                rotary = self.family.positions(
                    tokens, sample.grids, self.placeholders, sample.intervals
                )
            except DataError as error:
                path = self.plan.summary["shards"][place.shard]["path"]
                raise DataError(f"{path}: sample {sample.id}: {error}") from None
            targets[0] = IGNORED
            placed = np.concatenate([np.arange(len(tokens))[None], rotary])
            input_ids.append(tokens[: place.length])
            labels.append(targets[: place.length])
            positions.append(placed[:, : place.length])
            if self.features:
                media += self.features.read(place.shard, place.row)
            else:
                media += [torch.from_numpy(image) for image in sample.images]
            grids += sample.grids
            intervals += sample.intervals
            types += filter(None, media_types(sample.input_ids, self.placeholders).tolist())
            names.append(sample.id)
        lengths = [place.length for place in places]
        bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        tokens = _tensor(input_ids)
        return {
            "input_ids": tokens,
            "labels": _tensor(labels),
            "mm_token_type_ids": torch.from_numpy(
                media_types(tokens[0].numpy(), self.placeholders)
            )[None],
            "position_ids": torch.from_numpy(np.concatenate(positions, axis=1))[:, None],
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
            "features" if self.features else "images": media,
            "image_grid_thw": torch.tensor(grids, dtype=torch.int64).reshape(-1, 3),
            "media_types": types,
            "intervals": intervals,
            "samples": names,
            "datasets": [self.datasets[place.shard] for place in places],
            "lengths": lengths,
        }


def _tensor(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))[None]
