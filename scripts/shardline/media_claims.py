"""What rows of conversations say their media are: names, or objects that hold one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shardline.annotations import is_text
from shardline.embedded import place_of
from shardline.media_paths import MediaFinder
from shardline.rows import Rejection, Row
from shardline.samples import Medium

MEDIA_KEYS = {"image": ("image", "images"), "video": ("video", "videos")}
PATH_KEYS = ("path", "url", "image", "image_url", "video", "video_url")


def claims(record: dict[str, Any], keys: Sequence[str]) -> list[Any]:
    """The media that a record lists under one of ``keys``; null, "" and [] are no media.

    Raises:
        Rejection: ``bad_media``: two of the keys list different media.
    """
    given = [value for key in keys if (value := record.get(key)) is not None]
    if not given:
        return []
    if len(given) == 1 and type(given[0]) is str and given[0][:1].isalnum():  # most rows
        return given
    lists = []
    for key in keys:
        if record.get(key) is None or (value := parsed_list(record[key])) is None:
            continue
        values = value if isinstance(value, list) else [] if _is_nothing(value) else [value]
        if values:
            lists.append(values)
    if not lists:
        return []
    if any(values != lists[0] for values in lists[1:]):
        raise Rejection("bad_media", f"{' and '.join(keys)} list different media")
    return lists[0]


def parsed_list(value: Any) -> Any:
    """``value``, or the list that it is as JSON text, as cells of a table have it.

    Raises:
        Rejection: ``bad_text``: the list holds half a character.
    """
    if not isinstance(value, str) or value.lstrip()[:1] != "[":
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    if not is_text(parsed):
        raise Rejection("bad_text", "half a surrogate pair, which is no character")
    return parsed


def name_in(item: dict[str, Any]) -> Any:
    """What an object names its medium, maybe one object deeper; None if it does not."""
    value = next((item[key] for key in PATH_KEYS if item.get(key)), None)
    return value.get("url") or value if isinstance(value, dict) else value


def medium_of(row: Row, kind: Any, claim: Any, finder: MediaFinder) -> Medium:
    """The medium that a claim of ``row`` is.

    Raises:
        Rejection: ``embedded_media``: bytes in a row, other than images of parquet files; or what
            `MediaFinder.medium` refuses.
    """
    if isinstance(claim, dict):
        if claim.get("bytes") is not None:
            raise Rejection("embedded_media", f"the bytes of a {kind} in a row")
        claim = name_in(claim)
    if kind == "image" and isinstance(claim, str) and claim.startswith(f"{row.file}#"):
        place = place_of(claim)
        if place and (place.file, place.row) == (row.file, row.index):
            return Medium(kind="image", path=claim)
    return finder.medium(kind, claim, row.file.rpartition("/")[0])


def _is_nothing(value: Any) -> bool:
    if isinstance(value, dict):
        return all(item is None for item in value.values())
    return value == ""
