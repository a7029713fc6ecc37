"""The ScreenSpot family: one row a target, in ``screenspot_{desktop,mobile,web}*.json``.

Rows name ``img_filename`` (or ShowUI's ``img_url``), ``bbox``, ``instruction`` (ShowUI: ``task``)
and ``data_type`` (some copies: ``ui_type``), which is ``text`` or ``icon``. ShowUI's copy is one
file, ``metadata/hf_test_full.json``; it is read only where the others are absent, for it repeats
them.

A row's cell is ``<group>/<text|icon>``. The group is what the file's name says, else the row's
``group`` or ``split``; ``data_source`` and ``platform`` name applications and cannot tell it
(80 rows of version 2 have the platform "shop" outside the web file).
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
    read_records,
    text_fields,
)
from shardline.rows import Element, Rejection, Row, brief

DEFAULTS = {"annotations": None}
LAYOUTS = ("screenspot_*.json", "*/screenspot_*.json", "metadata/hf_test*.json")
IMAGE_FOLDERS = ("screenspot_imgs", "screenspotv2_image", "images", "")
GROUP_IN_NAME = re.compile(r"screenspot_(desktop|mobile|web)")
KINDS = ("text", "icon")


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the targets of all annotation files, in the order of their names."""
    options = check_options(options, DEFAULTS, "format_options of screenspot")
    choices = [options["annotations"]] if options["annotations"] else LAYOUTS
    finder = ImageFinder(raw, IMAGE_FOLDERS)
    for file in find_annotations(raw, choices):
        named = GROUP_IN_NAME.match(PurePosixPath(file).name)
        group = named.group(1) if named else None
        for index, record in read_records(raw, file):
            row = Row(file=file, index=index)
            try:
                if isinstance(record, Rejection):
                    raise record
                _fill(row, record, group, finder)
            except Rejection as rejection:
                row.rejection = rejection
            yield row


def _fill(row: Row, record: dict[str, Any], group: str | None, finder: ImageFinder) -> None:
    if "bbox" not in record:
        raise Rejection("bad_row", f"no `bbox`; the row has {', '.join(sorted(record))}")
    kind = record.get("data_type", record.get("ui_type"))
    if kind not in KINDS:
        raise Rejection("bad_row", f"data_type or ui_type is {brief(kind)}, not text or icon")
    group = group or record.get("group") or record.get("split")
    if not isinstance(group, str):
        raise Rejection("bad_row", "neither the file's name, `group` nor `split` tells the group")
    label = record.get("instruction", record.get("task"))
    name = record.get("img_filename", record.get("img_url"))
    row.cell = f"{group}/{kind}"
    row.elements = [Element(label=label, box=record["bbox"], kind=kind)]
    row.media = [finder.medium(name, record.get("img_size"))]
    row.meta = text_fields(record, ("id", "platform", "data_source", "split", "group"))
    row.meta["cell"] = row.cell
