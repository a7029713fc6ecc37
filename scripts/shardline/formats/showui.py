"""ShowUI's training layout: ``metadata/*.json`` and the screenshots in ``images/``.

A file is a list of screens (or one screen), each with its elements::

    {"img_url": "a.png", "img_size": [1280, 720], "element_size": 1, "element": [
        {"instruction": "Save", "bbox": [0.1, 0.2, 0.3, 0.4], "data_type": "text",
         "point": [0.2, 0.3]}]}

An element's text may be called ``text``, its kind ``type`` or ``class_name``. A record without
``element`` that has a ``bbox`` of its own is a screen with one element, as in the parquet rows of
ShowUI-desktop; if its ``bbox`` is a list of boxes, then ``instruction``, ``point`` and ``type`` are
lists beside it, as in those of ShowUI-web. One record becomes one sample. Parquet files are read
where there is no ``metadata`` (of the dataset, or of several in folders of their own).
`exporting.showui_metadata` makes such a file of samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.annotations import ImageFinder, check_options, find_annotations, text_fields
from shardline.records import first_of, image_of, read_records
from shardline.rows import Element, Rejection, Row, brief

DEFAULTS = {"annotations": None}
LAYOUTS = (
    "metadata/*.json",
    "metadata/*.jsonl",
    "*/metadata/*.json",
    "*.parquet",
    "*/*.parquet",
)
IMAGE_KEYS = ("img_url", "img_filename", "image_url", "file_name", "image")
LABEL_KEYS = ("instruction", "text", "task")
KIND_KEYS = ("data_type", "type", "class_name")
META_KEYS = ("id", "split", "task", "platform")
COLUMNS = (
    *IMAGE_KEYS,
    "img_size",
    "element",
    "element_size",
    "bbox",
    "point",
    *LABEL_KEYS[:-1],
    *KIND_KEYS,
    *META_KEYS,
)


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the screens of all annotation files, in the order of their names.

    Images are looked for in ``images/`` beside the annotation file's folder and in ``images/`` of
    the dataset, then without that folder.
    """
    options = check_options(options, DEFAULTS, "format_options of showui")
    choices = [options["annotations"]] if options["annotations"] else LAYOUTS
    for file in find_annotations(raw, choices):
        beside = str(PurePosixPath(file).parent.parent)
        finder = ImageFinder(raw, [f"{beside}/images", "images", beside, ""])
        for index, record in read_records(raw, file, COLUMNS):
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
        elements = _flat(record)
    if not isinstance(elements, list):
        raise Rejection("bad_row", "neither a list `element` nor a `bbox`")
    if not elements:
        raise Rejection("no_elements", "there are no elements")
    row.elements = [_element(value) for value in elements]
    row.media = [finder.medium(image_of(record, IMAGE_KEYS), record.get("img_size"))]
    row.meta = text_fields(record, META_KEYS)
    if record.get("element_size") not in (None, len(elements)):
        row.meta["element_size"] = brief(record["element_size"])


def _flat(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The elements of a record that has them as fields: one, or several as parallel lists."""
    boxes = record["bbox"]
    told_apart = isinstance(first_of(record, LABEL_KEYS), list)
    if not isinstance(boxes, list) or not (told_apart or any(map(_is_box, boxes))):
        return [record]
    columns = {key: record[key] for key in (*LABEL_KEYS, *KIND_KEYS, "point")
               if isinstance(record.get(key), list)}  # fmt: skip
    for key, values in columns.items():
        if len(values) != len(boxes):
            raise Rejection("bad_row", f"{len(boxes)} in `bbox`, {len(values)} in `{key}`")
    return [
        {"bbox": box, **{key: values[index] for key, values in columns.items()}}
        for index, box in enumerate(boxes)
    ]


def _is_box(value: Any) -> bool:
    """Whether an item of a list is a box, not a number of one."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def _element(value: Any) -> Element:
    if not isinstance(value, dict):
        return Element(label=None, box=value)
    kind = first_of(value, KIND_KEYS)
    return Element(
        label=first_of(value, LABEL_KEYS),
        box=value.get("bbox"),
        point=value.get("point"),
        kind=kind if isinstance(kind, str) else "",
    )
