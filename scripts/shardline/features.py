"""Shards of a vision tower's outputs, one beside each token shard: writing, listing, reading.

A shard is a plain WebDataset tar with the samples of its token shard in the same order. Each has a
json member and one ``<number>.bf16.npy`` a medium: uint16 [visual tokens, width], whose bits are
bfloat16 numbers (numpy has no such type): ``torch.from_numpy(array).view(torch.bfloat16)``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardline.errors import DataError
from shardline.files import canonical_json, file_entry, read_json, sha256_file, write_json
from shardline.shards import write_shard
from shardline.token_index import ShardIndex, read_facts, read_index, write_index
from shardline.token_reader import TokenReader

if TYPE_CHECKING:
    import torch

SUFFIX = "bf16.npy"
SHARED = ("family", "point", "precision", "dtype", "model_sha256")
"""Facts that all shards of one folder share."""

Features = list["torch.Tensor"]
"""Of each medium of a sample: [visual tokens, width]."""


class Medium(NamedTuple):
    """A picture uint8 [height, width, 3] (a video's frames one below the other), and its grid."""

    image: torch.Tensor
    grid: tuple[int, int, int]


class TokenShard:
    """The media of one token shard, sample by sample."""

    def __init__(self, tar: Path) -> None:
        """Read its index.

        Raises:
            DataError: there is none, or it is damaged.
        """
        self.index = tar.with_suffix(".index.parquet")
        self.facts = read_facts(self.index)
        self.rows = read_index(self.index, ["key", "id", "dataset", "grids"]).to_pylist()
        entry = {**self.facts["shard"], "path": tar.name, "index": self.index.name}
        entry["index_sha256"] = sha256_file(self.index)
        self._reader = TokenReader(tar.parent, [entry])

    @property
    def has_media(self) -> bool:
        """Whether any sample has a medium."""
        return any(row["grids"] for row in self.rows)

    def media(self) -> Iterable[list[Medium]]:
        """The media of each sample, read while they are asked for."""
        import torch

        for number in range(len(self.rows)):
            sample = self._reader.read(0, number)
            images = map(torch.from_numpy, sample.images)
            yield [Medium(*pair) for pair in zip(images, sample.grids, strict=True)]


def write_features(
    tokens: TokenShard,
    features: Iterable[Features],
    *,
    output: Path,
    index: Path,
    facts: Mapping[str, Any],
) -> None:
    """Write the features of a token shard and their index.

    Args:
        features: of each of the shard's samples, in order.
        facts: `SHARED`, ``device`` and ``versions``.
    """
    widths: set[int] = set()
    rows = 0

    def members():
        nonlocal rows
        for sample, media in zip(tokens.rows, features, strict=True):
            rows += sum(map(len, media))
            widths.update(medium.shape[-1] for medium in media)
            head = canonical_json({"id": sample["id"], "dataset": sample["dataset"]})
            arrays = [(f"{n}.{SUFFIX}", _packed(medium)) for n, medium in enumerate(media)]
            yield sample["key"], [("json", head.encode()), *arrays]

    written = write_shard(output, members())
    shard = {
        "shard": file_entry(output),
        "samples": len(tokens.rows),
        "media": sum(len(row["grids"]) for row in tokens.rows),
        "rows": rows,
        "width": max(widths, default=None),
        "tokens": tokens.facts["shard"]["name"],
        "tokens_sha256": tokens.facts["shard"]["sha256"],
    }
    write_index(index, tokens.rows, written, {**facts, **shard})


def _packed(rows: torch.Tensor) -> bytes:
    import torch

    buffer = io.BytesIO()
    bits = rows.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)
    np.save(buffer, bits)
    return buffer.getvalue()


def write_features_manifest(
    dataset: str, variant: str, features: str, *, tokens: Path, folder: Path, manifest: Path
) -> None:
    """List the features of a tokenised dataset.

    Args:
        variant: of the tokens; ``features``: of the features.
        tokens: manifest of the token shards.
        folder: where for each token shard ``<name>.tar`` there is a tar of that name with its
            ``<name>.index.parquet``.

    Raises:
        DataError: a shard is missing, is not the one that its index describes, or is not of the
            token shard that is there now.
    """
    shards = []
    shared: dict[str, Any] = {}
    versions: dict[str, set[str]] = {}
    for source in read_json(tokens)["shards"]:
        tar = folder / source["name"]
        index = tar.with_suffix(".index.parquet")
        facts = read_facts(index)
        if not tar.is_file() or tar.stat().st_size != facts["shard"]["bytes"]:
            raise DataError(f"{tar}: not the tar that {index.name} describes; compute it again")
        if (facts["tokens_sha256"], facts["samples"]) != (source["sha256"], source["samples"]):
            raise DataError(f"{tar}: not of the {source['name']} of {tokens}; compute it again")
        for key in SHARED:
            if shared.setdefault(key, facts[key]) != facts[key]:
                raise DataError(f"{tar}: its {key} differs from the other shards'; compute again")
        for package, number in facts["versions"].items():
            versions.setdefault(package, set()).add(number)
        own = ("samples", "media", "rows", "width", "tokens", "tokens_sha256", "device")
        shards.append(
            {
                **facts["shard"],
                "index": index.name,
                "index_sha256": sha256_file(index),
                **{key: facts[key] for key in own},
            }
        )
    write_json(
        manifest,
        {
            "stage": "features",
            "dataset": dataset,
            "variant": variant,
            "features": features,
            **{key: shared.get(key) for key in SHARED},
            **{key: sum(shard[key] for shard in shards) for key in ("samples", "media", "rows")},
            "shards": shards,
            "versions": {package: ", ".join(sorted(versions[package])) for package in versions},
        },
    )


class FeatureReader(TokenReader):
    """Reads the features of a plan's samples by their places in it: token shard and row."""

    remedy = "compute its features again"

    def __init__(
        self, results: Path, shards: Sequence[Mapping[str, Any]], manifests: Sequence[Path]
    ) -> None:
        """Find the features of each token shard.

        Args:
            results: the folder that the plan's paths are relative to.
            shards: the plan's token shards.
            manifests: of the features of all its datasets.

        Raises:
            DataError: a token shard has none, or they are of another file of that name.
        """
        known = {}
        for manifest in manifests:
            content = read_json(manifest)
            for shard in content["shards"]:
                tokens = f"tokens/{content['dataset']}/{content['variant']}/{shard['tokens']}"
                folder = manifest.parent
                known[tokens] = {
                    **shard,
                    "path": os.path.relpath(folder / shard["name"], results),
                    "index": os.path.relpath(folder / shard["index"], results),
                }
        for shard in shards:
            found = known.get(shard["path"])
            if found is None or found["tokens_sha256"] != shard["sha256"]:
                why = "no features of it" if found is None else "its features are of another file"
                listed = ", ".join(map(str, manifests))
                raise DataError(f"{shard['path']}: {why} in {listed}; compute the features again")
        super().__init__(results, [known[shard["path"]] for shard in shards])

    def _decode(self, shard: int, row: int, index: ShardIndex) -> Features:
        import torch

        media = []
        for suffix, (offset, size) in index.places(row).items():
            if suffix.endswith(SUFFIX):
                data = os.pread(self._file(shard), size, offset)
                if len(data) != size:
                    raise OSError(f"{len(data)} of {size} bytes of {suffix} were read")
                bits = np.load(io.BytesIO(data), allow_pickle=False)
                media.append(torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16))
        return media
