"""ShowUI's training layout: ``metadata/*.json`` and the screenshots in ``images/``.

A file is a list of screens (or one screen), each with its elements::

    {"img_url": "a.png", "img_size": [1280, 720], "element_size": 1, "element": [
        {"instruction": "Save", "bbox": [0.1, 0.2, 0.3, 0.4], "data_type": "text",
         "point": [0.2, 0.3]}]}

An element's text may be called ``text``; a record without ``element`` that has a ``bbox`` of its
own is a screen with one element. One screen becomes one sample.
"""

from __future__ import annotations

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
from shardline.rows import Element, Rejection, Row

DEFAULTS = {"annotations": "metadata/*.json"}
IMAGE_KEYS = ("img_url", "img_filename", "image")
LABEL_KEYS = ("instruction", "text", "task")


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the screens of all annotation files, in the order of their names.

    Images are looked for in ``images/`` beside the annotation file's folder and in ``images/`` of
    the dataset, then without that folder.
    """
    options = check_options(options, DEFAULTS, "format_options of showui")
    for file in find_annotations(raw, [options["annotations"]]):
        beside = str(PurePosixPath(file).parent.parent)
        finder = ImageFinder(raw, [f"{beside}/images", "images", beside, ""])
        for index, record in read_records(raw, file):
            row = Row(file=file, index=index)
            try:
                if isinstance(record, Rejection):
                    raise record
                _fill(row, record, finder)
            except Rejection as rejection:
                row.rejection = rejection
            yield row


def _fill(row: Row, record: dict[str, Any], finder: ImageFinder) -> None:
    elements = record.get("element")
    if elements is None and "bbox" in record:
        elements = [record]
    if not isinstance(elements, list):
        raise Rejection("bad_row", "neither a list `element` nor a `bbox`")
    if not elements:
        raise Rejection("no_elements", "the list `element` is empty")
    row.elements = [_element(value) for value in elements]
    row.media = [finder.medium(_first(record, IMAGE_KEYS), record.get("img_size"))]
    row.meta = text_fields(record, ("id", "split", "task", "platform"))
    if record.get("element_size", len(elements)) != len(elements):
        row.meta["element_size"] = str(record["element_size"])


def _element(value: Any) -> Element:
    if not isinstance(value, dict):
        return Element(label=None, box=value)
    kind = value.get("data_type")
    return Element(
        label=_first(value, LABEL_KEYS),
        box=value.get("bbox"),
        point=value.get("point"),
        kind=kind if isinstance(kind, str) else "",
    )


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """The value of the first of ``keys`` that the record has."""
    return next((record[key] for key in keys if key in record), None)
