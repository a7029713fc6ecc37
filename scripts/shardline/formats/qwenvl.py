"""Rows of the QwenVL framework, ms-swift and LLaMA-Factory: json, jsonl, csv or parquet.

A row has its conversation in one of these ways, tried in this order:

- ``messages``, ``conversations`` or ``conversation``: a list of ``{"from", "value"}`` or ``{"role",
  "content"}``, whose content is a text or a list of parts, or of ``{"human", "assistant"}`` pairs;
- ``query`` (``prompt``, ``question``), ``response`` (``answer``) and ``history``, a list of pairs;
- ``instruction``, ``input`` and ``output`` (and ``history``): the first two are joined by a line
  break;
- ``caption``, or ``text`` with one caption as Data-Juicer writes it.

``system`` is a first turn. Media are under ``image`` or ``images`` and ``video`` or ``videos``, one
or a list. Answers with boxes stay the text that they are, in whatever frame that was written in; a
row whose boxes are still to be filled in (``objects`` and ``<bbox>``) is rejected. A row that is a
list of rows, a pack, becomes one row each, with the pack's name in its ``meta``: a plan keeps them
together where a stage says ``packing: given``.
`shardline.conversations` has the rules for turns and placeholders, `shardline.media_paths` how
media are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shardline.annotations import check_options
from shardline.conversations import COLUMNS as COMMON_COLUMNS
from shardline.conversations import Turn, caption_turns, fill_row, turns_of
from shardline.media_claims import parsed_list
from shardline.media_paths import MediaFinder
from shardline.records import filled, first_of, scan_files
from shardline.row_files import parse_value
from shardline.rows import RawRow, Rejection, Row, brief

DEFAULTS = {"annotations": None, "media_folders": [], "prefix": ""}
FRAMES = ()
CONVERSATION_KEYS = ("messages", "conversations", "conversation")
QUESTION_KEYS = ("query", "prompt", "question")
ANSWER_KEYS = ("response", "answer", "output")
ALPACA_KEYS = ("instruction", "input")
PAIR_KEYS = (("human", "user"), ("assistant", "gpt", "bot"))
COLUMNS = (
    *COMMON_COLUMNS,
    *CONVERSATION_KEYS,
    *QUESTION_KEYS,
    *ANSWER_KEYS,
    *ALPACA_KEYS,
    "history",
    "objects",
    "system",
)
UNFILLED = ("<bbox>", "<ref-object>")


def scan(raw: Path, options: dict[str, Any]) -> Iterator[RawRow]:
    """Yield the rows of all annotation files, in the order of their names."""
    options = check_options(options, DEFAULTS, "format_options of qwenvl")
    return scan_files(raw, options["annotations"], COLUMNS)


def parser(raw: Path, options: dict[str, Any]) -> Callable[[RawRow], Iterator[Row]]:
    """What yields the one row that a raw row is, or those of a pack."""
    options = {**DEFAULTS, **options}
    finder = MediaFinder(raw, options["media_folders"], options["prefix"])

    def rows(raw_row: RawRow) -> Iterator[Row]:
        value = parse_value(raw_row.index, raw_row.value)
        packed = isinstance(value, list) and len(value) > 0
        for part, record in enumerate(value if packed else [value]):
            row = Row(file=raw_row.file, index=raw_row.index, part=part if packed else None)
            row = filled(row, record, finder, _fill)
            if packed:
                row.meta["pack"] = f"{raw_row.file}#{raw_row.index}"
            yield row

    return rows


def _fill(row: Row, record: dict[str, Any], finder: MediaFinder) -> None:
    turns = _turns(record)
    if record.get("objects") and any(mark in str(turns) for mark in UNFILLED):
        raise Rejection("unfilled_boxes", "the boxes are in `objects`, not in the text")
    fill_row(row, record, turns, finder)


def _turns(record: dict[str, Any]) -> list[Turn]:
    conversation = parsed_list(first_of(record, CONVERSATION_KEYS))
    if conversation is not None:
        turns = turns_of(_unpaired(conversation))
    elif (turns := _question_and_answer(record)) is None:
        turns = caption_turns(record)
    if turns is None:
        raise Rejection("no_conversation", f"none in {brief(sorted(record))}")
    system = record.get("system")
    if system is None or system == "" or (turns and turns[0] == ("system", system)):
        return turns
    return [("system", system), *turns]


def _unpaired(conversation: Any) -> Any:
    """A list of ``{"human", "assistant"}`` pairs as one of single turns; others as they are."""
    if not isinstance(conversation, list):
        return conversation
    turns: list[Any] = []
    for turn in conversation:
        if isinstance(turn, dict) and not {"from", "role"} & set(turn):
            question, answer = (first_of(turn, keys) for keys in PAIR_KEYS)
            turns += [{"role": "user", "content": question}]
            turns += [{"role": "assistant", "content": answer}]
        else:
            turns.append(turn)
    return turns


def _question_and_answer(record: dict[str, Any]) -> list[Turn] | None:
    question, answer = first_of(record, QUESTION_KEYS), first_of(record, ANSWER_KEYS)
    if question is None:
        texts = [record[key] for key in ALPACA_KEYS if record.get(key) not in (None, "")]
        question = "\n".join(_text(value) for value in texts) if texts else None
    if question is None and answer is None:
        return None
    history = parsed_list(record.get("history")) or []
    if not isinstance(history, list):
        raise Rejection("bad_turn", f"history is {brief(history)}, no list")
    turns: list[Turn] = []
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Rejection("bad_turn", f"history holds {brief(pair)}, no pair")
        turns += [("user", _text(pair[0])), ("assistant", _text(pair[1]))]
    turns += [] if question is None else [("user", _text(question))]
    turns += [] if answer is None else [("assistant", _text(answer))]
    return turns


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Rejection("bad_turn", f"{brief(value)} is no text")
    return value
