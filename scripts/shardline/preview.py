"""Samples as the model sees them, on one page: pixels after resizing, tokens, loss mask, packs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tokenizers import Tokenizer

from shardline import paths
from shardline.chat_tokens import parts_of
from shardline.errors import UserError
from shardline.files import read_json, sha256_bytes
from shardline.labels import count_supervised
from shardline.lineage import Lineage
from shardline.merging_family import family_of_stage
from shardline.plan_currency import difference
from shardline.plan_file import Place, Plan, read_plan
from shardline.preview_packs import FirstPacks, first_packs
from shardline.preview_pictures import agreement, draw, scenes_of
from shardline.preview_text import Stretch, stretches
from shardline.reporting.numbers import per_cent, plural
from shardline.reporting.pictures import Scene
from shardline.samples import Sample
from shardline.token_index import read_index
from shardline.token_reader import StoredSample, TokenReader
from shardline.variants import variant_of

WIDE = 400  # pixels
Json = dict[str, Any]


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
    def layout(self) -> str:
        """``bare`` without pictures, ``strip`` of several, ``wide`` or beside the text."""
        if not self.scenes:
            return "bare"
        if len(self.scenes) > 1:
            return "strip"
        return "wide" if self.scenes[0].width > WIDE else "beside"


class Preview:
    """Reads what one stage trains on, or what is held out of it."""

    def __init__(
        self, project: Any, recipe: str, stage: str, results: Path, validation: bool = False
    ) -> None:
        """Open the stage's plan, or its token shards while there is no plan of this config.

        Args:
            project: a `shardline.config.project.Project`.

        Raises:
            UserError: nothing is tokenised yet, or nothing is held out.
        """
        self.project, self.recipe, self.stage, self.results = project, recipe, stage, results
        self.validation = validation
        if validation and (recipe, stage) not in project.plan_validation:
            raise UserError(f"recipe {recipe} holds nothing out: it has no `split`")
        self.lineage = Lineage(project, results)
        self.plan: Plan | None = None
        path = paths.validation_plan if validation else paths.plan
        summary = Path(path(recipe, stage))
        self.missing = "there is no plan yet"
        if summary.is_file():
            plan = read_json(summary)
            if (other := difference(project, recipe, stage, plan, validation)) is None:
                self.plan = read_plan(summary, summary.with_suffix(".parquet"))
            else:
                self.missing = f"the plan there is of another config ({other})"
        self.shards = self.plan.summary["shards"] if self.plan else list(self._tokenised())
        self.reader = TokenReader(results, self.shards)
        data = project.stage_data[recipe, stage]
        self.tokens = {
            entry.dataset: project.tokenize[entry.dataset, entry.tokens] for entry in data
        }
        models = {project.model_of["tokens", entry.tokens] for entry in data}
        folder = Path(paths.model_folder(models.pop()))
        options = project.plan[recipe, stage]
        family = project.modules.load("families", options["family"])
        self.family = family_of_stage(family, options, folder)
        self.tokenizer: Tokenizer = self.family.load_tokenizer(folder)

    def render(self, count: int) -> str:
        """The page with ``count`` samples, the first that are trained on, and the first packs."""
        places = self.places(count)
        samples = [self.sample(number, place) for number, place in enumerate(places, start=1)]
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("preview.html").render(
            title=f"{self.recipe} / {self.stage}" + (", held out" if self.validation else ""),
            lead=self._lead(len(places)),
            legend=_legend(samples),
            samples=samples,
            packs=self.packs(places),
        )

    def packs(self, places: list[Place]) -> FirstPacks | None:
        """The first packs of the plan; samples shown on the page have their number there."""
        numbers = {place[:2]: number for number, place in enumerate(places, start=1)}
        return first_packs(self.plan, numbers) if self.plan else None

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
        scenes = scenes_of(sample, stored, self.family)
        text = stretches(stored, place.cut, self.tokenizer, self.family)
        taught = self._taught(sample, stored, text)
        if scenes and sample.media[0].kind == "image":
            draw(scenes[0], sample, taught, self.family, options)
        kept = len(stored.labels) - place.cut
        supervised = count_supervised(stored.labels[:kept])
        facts = [
            ("tokens", f"{place.length:,}, {supervised:,} of them learned"),
            *([("cut", f"{plural(place.cut, 'token')} at the end")] if place.cut else []),
            *self._sizes(sample, stored),
        ]
        if taught:
            facts.append(("answers", agreement(sample, taught)))
        facts.append(("from", f"{Path(shard).name}, row {place.row}"))
        return Seen(number, stored.id, stored.dataset, scenes, facts, text)

    def _taught(
        self, sample: Sample, stored: StoredSample, text: list[Stretch]
    ) -> list[list[float]]:
        """The points and boxes that answers teach, read as evaluation reads a model's answers."""
        options = self.tokens[stored.dataset]
        task = self.project.modules.load("tasks", options["task"])
        read = getattr(task, "parse_values", task.parse)
        seen = [self.family.seen_size(grid) for grid in stored.grids]
        answers = [
            "".join(part.text for part in parts)
            for learned, parts in itertools.groupby(text, key=lambda part: part.kind == "learned")
            if learned
        ]
        if options["tokens"]["loss"] == "all":
            messages = task.conversation(sample, options["tokens"], seen)
            turns = [message for message in messages if message["role"] == "assistant"]
            written = [
                "".join(part.get("text", "") for part in parts_of(message)) for message in turns
            ]
            answers = [answer for answer in written if answer in "".join(answers)]
        found = (read(answer, options["tokens"], seen) for answer in answers)
        return [values for values in found if values is not None]

    def _sizes(self, sample: Sample, stored: StoredSample) -> list[tuple[str, str]]:
        rows = []
        media = zip(sample.media, stored.images, stored.grids, stored.intervals, strict=True)
        for medium, image, grid, interval in media:
            width, height = self.family.seen_size(grid)
            frames = ""
            if medium.kind == "video":
                count = plural(image.shape[0] // height, "frame")
                frames = f" a frame, {count}, told to be {interval:.1f} s apart"
            rows.append(
                (
                    medium.kind,
                    f"{medium.width}×{medium.height} → {width}×{height} pixels{frames}, "
                    f"{grid[0] * grid[1] * grid[2]:,} patches, "
                    f"{plural(self.family.visual_tokens(grid), 'token')}",
                )
            )
        return rows

    def _lead(self, shown: int) -> str:
        if self.plan is None:
            target = (paths.validation_plan if self.validation else paths.plan)(
                self.recipe, self.stage
            )
            return (
                f"{plural(shown, 'sample')} chosen by a hash of their ids, for {self.missing}: "
                f"snakemake --profile profiles/local {target}"
            )
        plan = self.plan.summary
        return (
            f"The first {plural(shown, 'different sample')} of {plan['samples']:,} in training "
            f"order: {plural(plan['steps'], 'step')}, {plural(plan['packs'], 'pack')}, "
            f"{plan['tokens']:,} tokens, {per_cent(plan['fill'])} full."
        ).replace(" %", "\N{NO-BREAK SPACE}%")

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
            names = ["id", "text_length", "grids"]
            index = read_index(self.results / shard["index"], names).to_pylist()
            for row, sample in enumerate(index):
                media = sum(self.family.visual_tokens(grid) - 1 for grid in sample["grids"])
                place = Place(number, row, sample["text_length"] + media)
                lots.append((sha256_bytes(sample["id"].encode()), place))
        return [place for _, place in sorted(lots)]


def _legend(samples: list[Seen]) -> list[tuple[str, str]]:
    """The marks that are on the page: class and meaning."""
    shapes = [shape for sample in samples for scene in sample.scenes for shape in scene.shapes]
    drawn = {(shape.kind, len(shape.values)) for shape in shapes}
    written = {stretch.kind for sample in samples for stretch in sample.text}
    marks = [
        (("target", 4) in drawn, "box", "boxes of the data"),
        (("taught", 2) in drawn, "point", "points that the answers teach"),
        (("taught", 4) in drawn, "taught", "boxes that the answers teach"),
        (True, "learned", "learned: the loss sees it"),
        ("medium" in written, "medium", "a picture and its tokens"),
        ("cut" in written, "cut", "cut: left out of the training"),
    ]
    return [(name, text) for there, name, text in marks if there]
