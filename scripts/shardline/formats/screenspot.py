"""The ScreenSpot family: one row a target on a screenshot, in JSON, JSON lines or parquet.

==========  ==========================================================  =======================
copy        annotation files                                            frame to declare
==========  ==========================================================  =======================
version 1   ``screenspot_{desktop,mobile,web}.json``, or one file       ``pixel_xywh``
ShowUI's    ``metadata/hf_test_full.json``                              ``pixel_xywh``
nested      ``annotations/*.json``, ``annotations`` in each record      ``pixel_xywh``
version 2   ``screenspot_{desktop,mobile,web}_v2.json``                 as its publisher says
Pro         ``annotations/<application>_<system>.json``                 ``pixel_xyxy``
parquet     ``*.parquet``, also in ``data/``                            mostly ``unit_xyxy``
==========  ==========================================================  =======================

The first kind of file that is there is read: copies that hold two repeat the same rows. Versions 1
and 2 are other targets, mostly in other frames, so files of both are no dataset.

A row's cell is ``<group>/<text|icon>``. The group is what the file's name says, else the row's
``group``, else its ``split`` or ``platform`` if that is one of the three, else what the image's
name begins with (``pc_``, ``mobile_``, ``web_``). ``data_source``, and ``platform`` in some copies
of version 2, name applications and cannot tell it (80 rows have "shop" outside the web file).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.annotations import (
    ImageFinder,
    check_options,
    find_annotations,
    folders_near,
    text_fields,
)
from shardline.errors import ConfigError, DataError
from shardline.records import Record, first_of, image_of, read_records
from shardline.rows import Element, Rejection, Row, brief

DEFAULTS = {"annotations": None, "language": "en", "group": None}
LAYOUTS = (
    "screenspot*.json",
    "*/screenspot*.json",
    "annotations/*.json",
    "metadata/hf_test*.json",
    "*.parquet",
    "*/*.parquet",
)
IMAGE_FOLDERS = ("screenspot_imgs", "screenspotv2_image", "images", "")
IMAGE_KEYS = ("img_filename", "img_url", "file_name", "image")
LABEL_KEYS = {"en": ("instruction", "task"), "zh": ("instruction_cn",)}
KIND_KEYS = ("data_type", "ui_type")
META_KEYS = ("id", "platform", "application", "data_source", "split", "group")
COLUMNS = (
    *IMAGE_KEYS,
    "img_size",
    "annotations",
    "bbox",
    *LABEL_KEYS["en"],
    *LABEL_KEYS["zh"],
    *KIND_KEYS,
    *META_KEYS,
)
GROUPS = ("desktop", "mobile", "web")
GROUP_IN_NAME = re.compile(r"screenspot_(desktop|mobile|web)(_v2)?")
GROUP_OF_IMAGE = {"pc": "desktop", "desktop": "desktop", "mobile": "mobile", "web": "web"}
KINDS = ("text", "icon")


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the targets of all annotation files, in the order of their names.

    Options:
        annotations: glob of the annotation files, where they are called otherwise.
        language: ``en`` or ``zh``: which of the instructions of ScreenSpot-Pro is asked.
        group: the group of every row, where nothing in the data tells it.
    """
    options = check_options(options, DEFAULTS, "format_options of screenspot")
    language, group_of_all = options["language"], options["group"]
    if language not in tuple(LABEL_KEYS):
        raise ConfigError(f"language: {brief(language)} is neither en nor zh")
    if group_of_all is not None and not isinstance(group_of_all, str):
        raise ConfigError(f"group: {brief(group_of_all)} is not text")
    choices = [options["annotations"]] if options["annotations"] else LAYOUTS
    names = {
        file: GROUP_IN_NAME.match(PurePosixPath(file).name)
        for file in find_annotations(raw, choices)
    }
    if len({name[2] for name in names.values() if name}) > 1:
        raise DataError(
            f"{raw}: files of ScreenSpot's versions 1 and 2 ({', '.join(names)}); name those of "
            "one in the dataset's format_options: {annotations: <glob>}"
        )
    for file, name in names.items():
        group = group_of_all or (name and name[1])
        finder = ImageFinder(raw, folders_near(file, IMAGE_FOLDERS))
        for index, part, record in _targets(raw, file):
            row = Row(file=file, index=index, part=part)
            try:
                if isinstance(record, Rejection):
                    raise record
                _fill(row, record, group, finder, LABEL_KEYS[language])
            except Rejection as rejection:
                row.rejection = rejection
            yield row


def _targets(raw: Path, file: str) -> Iterator[tuple[int, int | None, Record]]:
    """Each record by its number, or each of its ``annotations``, with its fields, by two."""
    for index, record in read_records(raw, file, COLUMNS):
        nested = None if isinstance(record, Rejection) else record.get("annotations")
        if nested is None:
            yield index, None, record
        elif not isinstance(nested, list) or not nested:
            detail = f"`annotations` is {brief(nested)}, not a filled list"
            yield index, None, Rejection("bad_row", detail)
        else:
            shared = {key: value for key, value in record.items() if key != "annotations"}
            for part, target in enumerate(nested):
                if isinstance(target, dict):
                    yield index, part, {**shared, **target}
                else:
                    yield index, part, Rejection("bad_row", f"{brief(target)}, not an object")


def _fill(
    row: Row,
    record: dict[str, Any],
    group: str | None,
    finder: ImageFinder,
    label_keys: tuple[str, ...],
) -> None:
    if "bbox" not in record:
        raise Rejection("bad_row", f"no `bbox`; the row has {', '.join(sorted(record))}")
    kind = first_of(record, KIND_KEYS)
    if kind not in KINDS:
        raise Rejection("bad_row", f"data_type or ui_type is {brief(kind)}, not text or icon")
    group = group or _group(record)
    row.cell = f"{group}/{kind}"
    row.elements = [Element(label=first_of(record, label_keys), box=record["bbox"], kind=kind)]
    row.media = [finder.medium(image_of(record, IMAGE_KEYS), record.get("img_size"))]
    row.meta = {**text_fields(record, META_KEYS), "cell": row.cell}


def _group(record: dict[str, Any]) -> str:
    if isinstance(group := record.get("group"), str) and group.strip():
        return group
    for key in ("split", "platform"):
        if record.get(key) in GROUPS:
            return record[key]
    if isinstance(image := first_of(record, IMAGE_KEYS), str):
        prefix = PurePosixPath(image).name.partition("_")[0]
        if prefix in GROUP_OF_IMAGE:
            return GROUP_OF_IMAGE[prefix]
    if isinstance(split := record.get("split"), str) and split.strip():
        return split
    raise Rejection(
        "bad_row",
        "neither the file's name, `group`, `split`, `platform` nor the image's name tells the "
        "group; name it in the dataset's format_options: {group: ...}",
    )
