"""Several views of one object: VaseVQA's rows, or folders of pictures.

A row of an annotation file has ``images``, ``conversations`` and ``caption``::

    {"images": ["v/a.jpg"], "caption": "An amphora.", "conversations": [
        {"from": "human", "value": "<image>Describe."}, {"from": "gpt", "value": "An amphora."}]}

`shardline.conversations` has the rules for these; besides, several images that no ``<image>``
stands for go in front of the first question, as in ms-swift, which trains on such rows. A row
without a conversation becomes the question of the options with the caption as its answer. Where
there are no annotation files, or ``views`` names a folder, every picture is a sample without text,
for the filters that choose among views.

``group``, a regular expression, says which object a picture shows, by its path in the dataset
without the ending: ``(?P<group>...)``, and ``(?P<view>...)`` for which view it is. By default the
file is called ``<id>_<view>_...``, without a ``_`` in the id. A picture in a folder of views must
match; a row is of the group that all its images have in common, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shardline import locks
from shardline.annotations import check_options, text_fields
from shardline.conversations import COLUMNS as COMMON_COLUMNS
from shardline.conversations import ROLES, TAG, Turn, fill_row, turns_of
from shardline.embedded import place_of
from shardline.errors import ConfigError, DataError
from shardline.images import IMAGE_ENDINGS
from shardline.media_claims import MEDIA_KEYS, claims
from shardline.media_paths import MediaFinder
from shardline.row_files import find_row_files, read_rows
from shardline.rows import Rejection, Row, brief
from shardline.samples import Medium

DEFAULTS = {
    "annotations": None,
    "views": None,
    "group": r"(?:.*/)?(?P<group>[^/_]+)_(?P<view>\d+)(?:_[^/]*)?",
    "question": "Describe this object.",
    "media_folders": [],
    "prefix": "",
}
FRAMES = ()
META = ("caption", "data_by")
COLUMNS = (*COMMON_COLUMNS, *META, "conversations")
QUESTIONERS = [name for name, role in ROLES.items() if role == "user"]


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of all annotation files or, where there are none, all pictures.

    Raises:
        ConfigError: an option that is none, or no regular expression with a ``group``.
        DataError: a file that cannot be read at all, or neither rows nor pictures.
    """
    options = check_options(options, DEFAULTS, "format_options of multiview")
    for key in ("question", "prefix"):
        if not isinstance(options[key], str):
            raise ConfigError(f"format_options of multiview: {key}: {options[key]!r} is no text")
    pattern = _pattern(options["group"])
    if options["views"] is None:
        try:
            files = find_row_files(raw, options["annotations"])
        except DataError:
            if options["annotations"] is not None:
                raise
        else:
            yield from _read_rows(raw, files, pattern, options)
            return
    yield from _read_views(raw, str(options["views"] or ""), pattern)


def _pattern(text: Any) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except (re.error, TypeError) as error:
        raise ConfigError(f"format_options of multiview: group: {text!r}: {error}") from None
    if "group" not in pattern.groupindex:
        raise ConfigError(f"format_options of multiview: group: {text!r} has no (?P<group>...)")
    return pattern


def _read_rows(
    raw: Path, files: list[str], pattern: re.Pattern[str], options: dict[str, Any]
) -> Iterator[Row]:
    finder = MediaFinder(raw, options["media_folders"], options["prefix"])
    for file in files:
        for index, record in read_rows(raw, file, COLUMNS):
            row = Row(file=file, index=index)
            try:
                _fill(row, record, finder, options["question"])
                _set_group(row, pattern)
            except Rejection as rejection:
                row.rejection = rejection
            yield row


def _fill(row: Row, record: Any, finder: MediaFinder, question: str) -> None:
    if isinstance(record, Rejection):
        raise record
    if not isinstance(record, dict):
        raise Rejection("bad_row", f"{brief(record)}, not an object")
    caption = record.get("caption")
    if record.get("conversations"):
        turns = turns_of(record["conversations"])
    elif isinstance(caption, str):
        turns = [("user", question), ("assistant", caption)]
    else:
        raise Rejection("no_conversation", f"no `conversations`, no `caption`: {brief(record)}")
    fill_row(row, record, _with_images(turns, len(claims(record, MEDIA_KEYS["image"]))), finder)
    if not row.media:
        raise Rejection("no_media", "the row names no image")
    row.meta |= text_fields(record, META)


def _with_images(turns: list[Turn], count: int) -> list[Turn]:
    """The turns, with all images in front of the first question if nothing stands for any."""
    asked = [number for number, (role, _) in enumerate(turns) if role in QUESTIONERS]
    texts = [turns[number][1] for number in asked]
    if not asked or any(not isinstance(text, str) or TAG.search(text) for text in texts):
        return turns
    first = asked[0]
    return [*turns[:first], (turns[first][0], "<image>" * count + texts[0]), *turns[first + 1 :]]


def _set_group(row: Row, pattern: re.Pattern[str]) -> None:
    """Set the group that all media have in common, and the view of the only one."""
    found = [_object_of(medium.path, pattern) for medium in row.media]
    if all(found) and len({group for group, _ in found}) == 1:
        row.group = found[0][0]
        if len(found) == 1 and found[0][1] is not None:
            row.meta["view"] = found[0][1]


def _read_views(raw: Path, folder: str, pattern: re.Pattern[str]) -> Iterator[Row]:
    inside = PurePosixPath(folder).parts
    files = [
        file
        for file in locks.list_files(raw)
        if file.lower().endswith(IMAGE_ENDINGS)
        and PurePosixPath(file).parts[: len(inside)] == inside
    ]
    if not files:
        raise DataError(f"{raw / folder}: no picture ({', '.join(IMAGE_ENDINGS)})")
    for file in files:
        row = Row(file=file, index=0, block="views")
        row.media = [Medium(kind="image", path=file)]
        _set_group(row, pattern)
        if not row.group:
            row.media = []
            row.rejection = Rejection("no_group", f"the path does not match {pattern.pattern!r}")
        yield row


def _object_of(path: str, pattern: re.Pattern[str]) -> tuple[str, int | str | None] | None:
    """Group and view of a picture; None where its path does not tell."""
    if place_of(path):
        return None
    match = pattern.fullmatch(str(PurePosixPath(path).with_suffix("")))
    if not match or not match["group"]:
        return None
    view = match["view"] if "view" in pattern.groupindex else None
    return match["group"], int(view) if view and view.isascii() and view.isdecimal() else view
