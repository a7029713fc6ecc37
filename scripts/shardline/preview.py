"""Samples as the model sees them, on one page: pixels after resizing, tokens, loss mask, packs."""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tokenizers import Tokenizer

from shardline import paths
from shardline.errors import UserError
from shardline.files import read_json, sha256_bytes
from shardline.lineage import Lineage
from shardline.placeholders import media_types, placeholder_ids
from shardline.plan_file import Place, Plan, read_plan
from shardline.png import encode_png
from shardline.reporting.numbers import per_cent, plural
from shardline.reporting.pictures import Scene, draw_box, draw_point
from shardline.samples import Sample, to_unit
from shardline.token_index import read_index
from shardline.token_reader import StoredSample, TokenReader
from shardline.variants import variant_of

IGNORED = -100
PACKS = 12
WIDE = 400  # pixels
Json = dict[str, Any]


@dataclass(frozen=True)
class Stretch:
    """Decoded tokens of one kind: ``plain``, ``learned`` (the loss sees them) or ``medium``."""

    kind: str
    text: str


@dataclass
class Seen:
    """One sample as the model sees it."""

    number: int
    id: str
    dataset: str
    scenes: list[Scene]
    facts: list[tuple[str, str]]
    text: list[Stretch]

    @property
    def wide(self) -> bool:
        """Whether a picture is shown across the page: none of its pixels should be lost."""
        return any(scene.width > WIDE for scene in self.scenes)


@dataclass
class Pack:
    """One pack: each sample's share of its length, and what is left empty, in per cent."""

    step: int
    tokens: int
    fill: str
    parts: list[Json] = field(default_factory=list)


class Preview:
    """Reads what one stage trains on."""

    def __init__(self, project: Any, recipe: str, stage: str, results: Path) -> None:
        """Open the stage's plan, or its token shards while there is no plan yet.

        Args:
            project: a `shardline.config.project.Project`.

        Raises:
            UserError: nothing is tokenised yet.
        """
        self.project, self.recipe, self.stage, self.results = project, recipe, stage, results
        self.lineage = Lineage(project, results)
        summary = Path(paths.plan(recipe, stage))
        self.plan: Plan | None = None
        if summary.is_file():
            self.plan = read_plan(summary, summary.with_suffix(".parquet"))
            self.shards = self.plan.summary["shards"]
        else:
            self.shards = list(self._tokenised())
        self.reader = TokenReader(results, self.shards)
        data = project.stage_data[recipe, stage]
        self.tokens = {
            entry.dataset: project.tokenize[entry.dataset, entry.tokens] for entry in data
        }
        models = {project.model_of["tokens", entry.tokens] for entry in data}
        options = next(iter(self.tokens.values()))
        self.family = project.modules.load("families", options["family"])
        self.tokenizer: Tokenizer = self.family.load_tokenizer(
            Path(paths.model_folder(models.pop()))
        )

    def render(self, count: int) -> str:
        """The page with ``count`` samples, the first that are trained on, and the first packs."""
        places = self.places(count)
        numbers = {place[:2]: number for number, place in enumerate(places, start=1)}
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("preview.html").render(
            title=f"{self.recipe} / {self.stage}",
            lead=self._lead(len(places)),
            samples=[self.sample(number, place) for number, place in enumerate(places, start=1)],
            packs=self.packs(numbers),
            max_length=self.plan.summary["max_length"] if self.plan else None,
        )

    def places(self, count: int) -> list[Place]:
        """The first ``count`` different samples: in training order, or by lot without a plan."""
        if self.plan is not None:
            order = (
                place for pack in range(len(self.plan.tokens)) for place in self.plan.samples(pack)
            )
        else:
            order = iter(self._by_lot())
        found: dict[tuple[int, int], Place] = {}
        for place in order:
            if len(found) >= count:
                break
            found.setdefault(place[:2], place)
        return list(found.values())

    def sample(self, number: int, place: Place) -> Seen:
        """What the model sees of the sample at a place.

        Raises:
            DataError: the sample cannot be read, or is not converted any more.
        """
        stored = self.reader.read(place.shard, place.row)
        shard = self.shards[place.shard]["path"]
        source = self.lineage.planned_samples(shard, {stored.id})[stored.id]
        options = self.tokens[stored.dataset]["tokens"]
        sample = variant_of(source, stored.id, options).sample
        scenes = [_scene(image) for image in stored.images]
        stretches = self.stretches(stored)
        points = self._points(stored)
        if scenes:
            medium = sample.media[0]
            for box in sample.boxes:
                unit = to_unit(box.xyxy, sample.frame, medium.width, medium.height)
                unit = self.family.on_picture(unit, medium.width, medium.height, options)
                draw_box(scenes[0], "target", unit, box.label)
            for point in points:
                unit = self.family.on_picture(point, medium.width, medium.height, options)
                draw_point(scenes[0], "taught", unit, "the point of an answer")
        supervised = int(np.count_nonzero(stored.labels[1:] != IGNORED))
        facts = [
            ("tokens", f"{place.length:,}, {plural(supervised, 'token')} learned"),
            *([("cut", f"{plural(place.cut, 'token')} at the end")] if place.cut else []),
            *self._sizes(sample, stored),
        ]
        if points:
            facts.append(("points", _agreement(sample, points)))
        facts.append(("from", f"{Path(shard).name}, row {place.row}"))
        return Seen(number, stored.id, stored.dataset, scenes, facts, stretches)

    def stretches(self, stored: StoredSample) -> list[Stretch]:
        """The tokens as text, cut where the loss mask changes; a medium with its token count."""
        types = media_types(stored.input_ids, placeholder_ids(self.tokenizer, self.family))
        sizes = iter(self.family.visual_tokens(grid) for grid in stored.grids)
        kinds = np.where(stored.labels != IGNORED, "learned", "plain").astype(object)
        kinds[:1] = "plain"  # nothing predicts the first token
        kinds[types > 0] = "medium"
        found = []
        pairs = zip(kinds.tolist(), stored.input_ids.tolist(), strict=True)
        for kind, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            ids = [token for _, token in group]
            if kind == "medium":
                found += [
                    Stretch(kind, f"{self.tokenizer.id_to_token(token)} × {next(sizes)}")
                    for token in ids
                ]
            else:
                text = self.tokenizer.decode(ids, skip_special_tokens=False)
                found.append(Stretch(kind, text))
        return found

    def packs(self, numbers: dict[tuple[int, int], int]) -> list[Pack]:
        """The first packs of the plan; samples shown on the page have their number there."""
        if self.plan is None:
            return []
        capacity = self.plan.summary["max_length"]
        found = []
        total = min(PACKS, len(self.plan.tokens))
        steps = np.searchsorted(self.plan.step_starts, np.arange(total), side="right")
        for pack in range(total):
            tokens = int(self.plan.tokens[pack])
            parts = [
                {
                    "share": round(100 * place.length / capacity, 3),
                    "tokens": place.length,
                    "number": numbers.get(place[:2]),
                    "place": f"{self.shards[place.shard]['path']}, row {place.row}",
                }
                for place in self.plan.samples(pack)
            ]
            found.append(Pack(int(steps[pack]), tokens, per_cent(tokens / capacity), parts))
        return found

    def _points(self, stored: StoredSample) -> list[list[float]]:
        """The points that the learned answers name, read as evaluation reads a model's answers."""
        options = self.tokens[stored.dataset]
        task = self.project.modules.load("tasks", options["task"])
        seen = [self.family.seen_size(grid) for grid in stored.grids]
        learned = stored.labels != IGNORED
        points = []
        for kept, group in itertools.groupby(range(len(learned)), key=lambda at: bool(learned[at])):
            if kept:
                ids = stored.input_ids[list(group)].tolist()
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                if (point := task.parse(text, options["tokens"], seen)) is not None:
                    points.append(point)
        return points

    def _sizes(self, sample: Sample, stored: StoredSample) -> list[tuple[str, str]]:
        rows = []
        for medium, image, grid in zip(sample.media, stored.images, stored.grids, strict=True):
            height, width = image.shape[:2]
            rows.append(
                (
                    medium.kind,
                    f"{medium.width}×{medium.height} → {width}×{height} pixels, "
                    f"{grid[0] * grid[1] * grid[2]:,} patches, "
                    f"{plural(self.family.visual_tokens(grid), 'token')}",
                )
            )
        return rows

    def _lead(self, shown: int) -> str:
        if self.plan is None:
            return f"{plural(shown, 'sample')} chosen by a hash of their ids; there is no plan yet."
        plan = self.plan.summary
        return (
            f"The first {plural(shown, 'different sample')} of {plan['samples']:,} in training "
            f"order: {plural(plan['steps'], 'step')}, {plural(plan['packs'], 'pack')}, "
            f"{plan['tokens']:,} tokens, {per_cent(plan['fill'])} full."
        )

    def _tokenised(self) -> list[Json]:
        """The shards of the stage's token manifests, with the keys of a plan's."""
        shards: list[Json] = []
        for entry in self.project.stage_data[self.recipe, self.stage]:
            manifest = Path(paths.tokens(entry.dataset, entry.tokens))
            if not manifest.is_file():
                raise UserError(
                    f"{manifest}: no such file; tokenise the data first: snakemake --profile "
                    f"profiles/local {manifest}"
                )
            folder = manifest.parent.relative_to(self.results).as_posix()
            for shard in read_json(manifest)["shards"]:
                where = {
                    key: f"{folder}/{shard[name]}"
                    for key, name in (("path", "name"), ("index", "index"))
                }
                shards.append(shard | where)
        return shards

    def _by_lot(self) -> list[Place]:
        lots = []
        for number, shard in enumerate(self.shards):
            index = read_index(self.results / shard["index"], ["id", "length"])
            columns = (index["id"].to_pylist(), index["length"].to_pylist())
            for row, (name, length) in enumerate(zip(*columns, strict=True)):
                lots.append((sha256_bytes(name.encode()), Place(number, row, length)))
        return [place for _, place in sorted(lots)]


def _scene(image: np.ndarray) -> Scene:
    """A resized image as a scene, losslessly: these are the pixels that the model gets."""
    data = base64.b64encode(encode_png(image)).decode()
    height, width = image.shape[:2]
    return Scene(image=f"data:image/png;base64,{data}", width=width, height=height)


def _agreement(sample: Sample, points: list[list[float]]) -> str:
    """Whether the points that are taught lie in the boxes that are asked for."""
    if len(points) != len(sample.boxes):
        return f"{len(points)} in the answers, {plural(len(sample.boxes), 'box', 'boxes')}"
    medium = sample.media[0]
    inside = 0
    for (x, y), box in zip(points, sample.boxes, strict=True):
        left, top, right, bottom = to_unit(box.xyxy, sample.frame, medium.width, medium.height)
        inside += left <= x <= right and top <= y <= bottom
    return f"{inside} of {len(points)} in their box"
