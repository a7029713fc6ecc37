"""Which kinds of media a plan has: what stands in for a kind that a row lacks, and a warning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_project import FROZEN, LORA

from shardline.errors import DataError
from shardline.files import sha256_file
from shardline.media_kinds import IMAGE, VIDEO, media_kinds
from shardline.plan_file import Place, Plan
from shardline.token_index import SCHEMA
from shardline.training.tuning_log import mixed_media

# Seconds from frame to frame of each sample's media; an image has none.
SHARDS = ([[0.0], [], [0.0, 0.0]], [[0.0, 2.0], [2.0, 2.0, 2.0]], [[]])
IMAGES, VIDEOS, TEXT = range(3)


def _plan(results: Path, drawn: Sequence[tuple[int, int]], cut: Sequence[int] = ()) -> Plan:
    """Samples (shard, row), each in a pack and a step of its own; every medium has four patches."""
    shards = []
    for number, intervals in enumerate(SHARDS):
        columns = {
            "patches": [4 * len(media) for media in intervals],
            "grids": [[[1, 2, 2]] * len(media) for media in intervals],
            "intervals": intervals,
        }
        path = results / f"{number}.parquet"
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        pq.write_table(pa.table(columns, schema), path)
        shards.append({"index": path.name, "index_sha256": sha256_file(path)})
    shard, row = np.array(drawn, np.int32).T
    bounds, nothing = np.arange(len(drawn) + 1), np.zeros(len(drawn), np.int32)
    lengths = nothing + 9
    columns = (shard, row, lengths, np.array(cut or nothing, np.int32))
    return Plan({"shards": shards}, bounds, bounds, *[nothing] * 3, *columns)


def test_the_smallest_sample_of_one_kind_stands_in(tmp_path: Path) -> None:
    plan = _plan(tmp_path, [(VIDEOS, 0), (IMAGES, 2), (TEXT, 0), (VIDEOS, 1), (IMAGES, 0)])
    kinds = media_kinds(plan, tmp_path)
    assert kinds.packs.tolist() == [IMAGE | VIDEO, IMAGE, 0, VIDEO, IMAGE]
    image, video = Place(IMAGES, 0, 9), Place(VIDEOS, 1, 9)  # not the smaller one of both kinds
    assert kinds.smallest == {IMAGE: image, VIDEO: video}
    assert kinds.stand_ins(range(0, 1)) == []
    assert kinds.stand_ins(range(1, 3)) == [video]
    assert kinds.stand_ins(range(2, 3)) == [image, video]


def test_what_is_cut_short_does_not_stand_in(tmp_path: Path) -> None:
    drawn = [(VIDEOS, 1), (VIDEOS, 0), (IMAGES, 0)]
    kinds = media_kinds(_plan(tmp_path, drawn, cut=[3, 0, 0]), tmp_path)
    assert kinds.smallest[VIDEO] == Place(VIDEOS, 0, 9)
    with pytest.raises(DataError, match="every planned sample with videos is cut short"):
        media_kinds(_plan(tmp_path, drawn, cut=[3, 3, 0]), tmp_path)


def test_mixed_media_for_a_tuned_tower_are_warned_of(tmp_path: Path) -> None:
    learning, still = {"vision": LORA}, {"vision": FROZEN}
    both = _plan(tmp_path, [(TEXT, 0), (IMAGES, 0), (VIDEOS, 1)])
    (line,) = mixed_media(learning, both, tmp_path)
    assert line.startswith("warning: tune.vision is lora and the plan has images and videos")
    assert mixed_media(still, both, tmp_path) == []
    assert mixed_media(learning, _plan(tmp_path, [(TEXT, 0), (IMAGES, 0)]), tmp_path) == []
