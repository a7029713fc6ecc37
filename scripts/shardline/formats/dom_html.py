"""Screenshots with the HTML of their pages: rows of parquet files, or pairs of files.

Parquet files (WebCode2M, WebSight) have a column of images, embedded or named, and one of text.
Where there are no parquet files, ``name.html`` and ``name.png`` are a pair, beside each other
(pix2code, WebSRC) or in folders of their own (``html/7.html`` and ``images/7.jpg``); see
`shardline.pairs`. A page or picture without its other half is rejected, and so is a name with
several pages or several pictures.

A pair becomes a question with the screenshot and, as the answer, the HTML with every character. A
file is read in the encoding that it declares, else as UTF-8; ``meta.encoding`` says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardline import locks
from shardline.annotations import ImageFinder, check_options, find_annotations
from shardline.charsets import decode_html
from shardline.errors import ConfigError, DataError
from shardline.files import canonical_json
from shardline.images import IMAGE_ENDINGS
from shardline.pairs import find_pairs
from shardline.parquet_rows import read_parquet
from shardline.rows import Rejection, Row
from shardline.samples import Medium

DEFAULTS = {
    "annotations": None,  # glob of the parquet files; none: all there are
    "image": "image",  # columns of the parquet files
    "text": "text",
    "pages": "",  # the folders that pages and pictures are in; "": anywhere
    "images": "",
    "question": "convert this image to html",
}
FRAMES = ()
META = ("lang", "hash", "score", "scale", "tokens")  # what WebCode2M says of a row
PAGES = (".html", ".htm", ".xhtml")


def read(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of all parquet files or, where there are none, all pairs of files.

    Raises:
        ConfigError: an option that is none or no text.
        DataError: a file that is no parquet file or lacks a column; neither parquet files nor
            pages.
    """
    options = check_options(options, DEFAULTS, "format_options of dom_html")
    for key, value in options.items():
        if not isinstance(value, str) and (key, value) != ("annotations", None):
            raise ConfigError(f"format_options of dom_html: {key}: {value!r} is no text")
    if options["annotations"]:
        files = find_annotations(raw, [options["annotations"]])
    else:
        files = [file for file in locks.list_files(raw) if file.endswith(".parquet")]
    for file in files:
        yield from _read_rows(raw, file, options)
    if not files:
        yield from _read_pairs(raw, options)


def _read_rows(raw: Path, file: str, options: dict[str, Any]) -> Iterator[Row]:
    finder = ImageFinder(raw, [str(Path(file).parent), options["images"], "images", ""])
    columns = [options["image"], options["text"]]
    for index, record in read_parquet(raw, file, columns, META, as_bytes=columns[1:]):
        row = Row(file=file, index=index)
        try:
            if isinstance(record, Rejection):
                raise record
            image, text = (record[column] for column in columns)
            html = _text(text)
            if image is None:
                raise Rejection("missing_image", "neither bytes nor the name of a file")
            row.media = [finder.medium(image)]
            row.messages = _messages(options["question"], html)
            row.meta = {key: record[key] for key in META if _is_plain(record.get(key))}
        except Rejection as rejection:
            row.rejection = rejection
        yield row


def _read_pairs(raw: Path, options: dict[str, Any]) -> Iterator[Row]:
    files = locks.list_files(raw)
    pairs = find_pairs(files, PAGES, IMAGE_ENDINGS, options["pages"], options["images"])
    if not any(file.lower().endswith(PAGES) for file in files):
        raise DataError(f"{raw}: neither parquet files nor pages ({', '.join(PAGES)})")
    for pair in pairs:
        row = Row(file=pair.file, index=0, block="pairs", rejection=pair.rejection)
        if not pair.rejection:
            try:
                html, encoding = _decode((raw / pair.file).read_bytes())
                row.media = [Medium(kind="image", path=pair.image)]
                row.messages = _messages(options["question"], html)
                row.meta = {"encoding": encoding}
            except Rejection as rejection:
                row.rejection = rejection
        yield row


def _text(value: Any) -> str:
    """The HTML in a column of text or bytes."""
    if value is None:
        raise Rejection("missing_html", "the text is null")
    if isinstance(value, bytes):
        return _decode(value)[0]
    if not isinstance(value, str):
        raise Rejection("bad_row", f"the text is a {type(value).__name__}")
    return _checked(value)


def _decode(data: bytes) -> tuple[str, str]:
    try:
        text, encoding = decode_html(data)
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not {error.encoding}: {error.reason}"
        raise Rejection("bad_encoding", problem) from None
    return _checked(text), encoding


def _checked(text: str) -> str:
    if not text.strip("\ufeff \t\r\n\f\0"):
        raise Rejection("empty_html", f"{len(text)} characters, all blank")
    return text


def _messages(question: str, html: str) -> list[dict[str, Any]]:
    asked = [{"type": "text", "text": question}] if question else []
    return [
        {"role": "user", "content": [*asked, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": html}]},
    ]


def _is_plain(value: Any) -> bool:
    """Whether a value is there and can be written as JSON."""
    try:
        canonical_json(value)
    except (TypeError, ValueError):
        return False
    return value is not None
