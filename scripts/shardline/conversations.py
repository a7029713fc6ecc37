"""Conversations of raw rows as canonical messages, with their media in the order of reference.

The rules, for all formats of conversations:

- ``<image>`` and ``<video>`` in a user's text stand for the row's media in their order, and
  ``<img>path</img>`` and ``<video>path</video>`` for a medium of their own. They become parts of
  the message; all other text stays as it is. There must be as many of each kind as media
  (``placeholder_mismatch``), but: a row's only medium that nothing stands for goes in front of the
  first question, and where there are videos and no image, ``<image>`` may stand for them all.
  In answers and system texts they are ``misplaced_placeholder``.
- A system text is the first turn; then questions and answers take turns. Answers before the first
  question and a question after the last answer are left out, questions in a row become one, joined
  by a line break; ``meta`` counts these as ``dropped_answers``, ``dropped_questions`` and
  ``joined_questions``. Two answers in a row, a text that is empty, a role that is unknown and an
  unanswered question with a medium are rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from shardline.annotations import text_fields
from shardline.media_claims import MEDIA_KEYS, claims, medium_of, name_in
from shardline.media_paths import MediaFinder
from shardline.rows import Rejection, Row, brief
from shardline.samples import Medium

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "system": "system",
}
PART_KINDS = {
    "text": "text",
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
}
NEXT = {"user": "assistant", "assistant": "user"}  # the role after a role
IMAGE = "<image>"
IMAGE_LINE = IMAGE + "\n"
AUDIO_KEYS = ("audio", "audios")
OTHER_MEDIA = frozenset(("images", "video", "videos", *AUDIO_KEYS))
META_KEYS = ("id", "source", "data_source", "category")
COLUMNS = (*META_KEYS, *MEDIA_KEYS["image"], *MEDIA_KEYS["video"], *AUDIO_KEYS, "text", "caption")
TAG = re.compile(r"<img>([^<>\n]+)</img>|<video>([^<>\s]+)</video>|<(image|video)>")
CAPTION_TAGS = re.compile(r"(?:<__dj__(?:image|video)>\s*)+")
CAPTION_END = "<|__dj__eoc|>"

Turn = tuple[Any, Any]  # role and content as the source has them
Part = dict[str, str]


class Reference(NamedTuple):
    """A part of a message that stands for a medium: its own ``claim``, or None: the row's next."""

    part: Part
    claim: Any


def fill_row(row: Row, record: dict[str, Any], turns: Iterable[Turn], finder: MediaFinder) -> None:
    """Set messages, media and meta of ``row``.

    Args:
        row: the row; its file and index are set.
        record: the source's object, for its media and its `META_KEYS`.
        turns: its conversation, unchecked.
        finder: looks for the media.

    Raises:
        Rejection: a rule of this module or of `MediaFinder` does not hold.
    """
    turns = list(turns)
    if (messages := _usual_messages(record, turns)) is not None:
        image = record.get("image")
        row.media = [medium_of(row, "image", image, finder)] if image else []
        row.messages, notes = messages, {}
    else:
        notes = _fill_by_the_rules(row, record, turns, finder)
    row.meta = {**text_fields(record, META_KEYS), **notes}
    if isinstance(record.get("id"), int) and not isinstance(record["id"], bool):
        row.meta["id"] = str(record["id"])


def _usual_messages(record: dict[str, Any], turns: list[Turn]) -> list[dict[str, Any]] | None:
    """What the rules make of the commonest rows, which are most of millions; None for others.

    These are questions and answers in turn, with an image in front of the first question or none.
    """
    image = record.get("image")
    if not OTHER_MEDIA.isdisjoint(record) or len(turns) % 2:
        return None
    if image is not None and not (type(image) is str and image[:1].isalnum()):
        return None
    messages: list[dict[str, Any]] = []
    tag = IMAGE_LINE if image else ""
    role = "user"
    for name, content in turns:
        if type(name) is not str or ROLES.get(name) != role or type(content) is not str:
            return None
        if not content.startswith(tag) or (text := content[len(tag) :]).isspace() or not text:
            return None
        if "<" in text:
            return None
        parts = [{"type": "text", "text": content[len(IMAGE) :] if tag else content}]
        messages.append({"role": role, "content": [{"type": "image"}, *parts] if tag else parts})
        tag, role = "", NEXT[role]
    return messages or None


def _fill_by_the_rules(
    row: Row, record: dict[str, Any], turns: list[Turn], finder: MediaFinder
) -> dict[str, int]:
    """Set messages and media of ``row``; returns what was left out or joined."""
    if any(map(record.get, AUDIO_KEYS)):
        raise Rejection("unsupported_media", "the row has audio")
    messages, references, notes = _read_turns(turns)
    pools = {
        kind: [medium_of(row, kind, claim, finder) for claim in claims(record, keys)]
        for kind, keys in MEDIA_KEYS.items()
    }
    if references or pools["image"] or pools["video"]:
        references = _place(messages, references, pools)
    for number, message in enumerate(messages):
        if message["role"] == "user" and _is_blank(message["content"]):
            raise Rejection("empty_question", f"message {number} has neither text nor media")
    row.media = [
        pools[part["type"]].pop(0) if claim is None else medium_of(row, part["type"], claim, finder)
        for part, claim in references
    ]
    row.messages = messages
    return notes


def turns_of(conversation: Any) -> list[Turn]:
    """The turns of a list of ``{"from", "value"}`` or ``{"role", "content"}``.

    Raises:
        Rejection: ``bad_turn``: it is no such list.
    """
    if not isinstance(conversation, list):
        raise Rejection("bad_turn", f"the conversation is {brief(conversation)}, no list")
    turns = []
    for number, turn in enumerate(conversation):
        if not isinstance(turn, dict):
            raise Rejection("bad_turn", f"turn {number} is {brief(turn)}, no object")
        role, text = turn.get("from"), turn.get("value")
        role = turn.get("role") if role is None else role
        text = turn.get("content") if text is None else text
        if role is None or text is None:
            raise Rejection("bad_turn", f"turn {number} lacks role or text: {brief(turn)}")
        turns.append((role, text))
    return turns


def caption_turns(record: dict[str, Any]) -> list[Turn] | None:
    """A row with a caption as media and answer, else None.

    The caption is in ``caption``, or in ``text``, marked ``<__dj__image>``.

    Raises:
        Rejection: ``interleaved_text``: the marks are not all in front of one caption.
    """
    text = record.get("text")
    if isinstance(caption := record.get("caption"), str):
        tags = "".join(f"<{kind}>" * len(claims(record, keys)) for kind, keys in MEDIA_KEYS.items())
        return [("user", tags), ("assistant", caption)] if tags else None
    if not isinstance(text, str) or "<__dj__" not in text:
        return None
    text = text.strip().removesuffix(CAPTION_END).rstrip()
    marks = CAPTION_TAGS.match(text)
    if not marks or "__dj__" in (caption := text[marks.end() :]):
        raise Rejection("interleaved_text", f"no single caption: {brief(text)}")
    return [("user", re.sub(r"__dj__|\s", "", marks[0])), ("assistant", caption)]


def _read_turns(
    turns: Iterable[Turn],
) -> tuple[list[dict[str, Any]], list[Reference], dict[str, int]]:
    """Messages, the references to media in them, and what was left out or joined."""
    messages: list[dict[str, Any]] = []
    references: list[Reference] = []
    notes: dict[str, int] = {}
    last = "system"
    for number, (name, content) in enumerate(turns):
        if not isinstance(name, str) or (role := ROLES.get(name)) is None:
            raise Rejection("unknown_role", f"turn {number} is by {brief(name)}")
        parts, found = _read_content(content, number)
        if found and role != "user":
            raise Rejection("misplaced_placeholder", f"turn {number}, by {name}, has a medium")
        references += found
        last = _add_turn(messages, notes, number, role, last, parts)
    _drop_unanswered(messages, notes)
    return messages, references, notes


def _add_turn(
    messages: list[dict[str, Any]],
    notes: dict[str, int],
    number: int,
    role: str,
    last: str,
    parts: list[Part],
) -> str:
    """Add a turn after one of role ``last`` to the messages; returns the role of the last then."""
    if role == "assistant":
        if last == "system":
            notes["dropped_answers"] = notes.get("dropped_answers", 0) + 1
            return last
        if last == "assistant":
            raise Rejection("two_answers", f"turn {number} follows an answer")
        if _is_blank(parts):
            raise Rejection("empty_answer", f"turn {number} has no text")
    elif role == "user":
        if last == "user":
            messages[-1]["content"] += [{"type": "text", "text": "\n"}, *parts]
            notes["joined_questions"] = notes.get("joined_questions", 0) + 1
            return last
    elif number:
        raise Rejection("misplaced_system", f"turn {number}, not the first")
    elif not parts:
        return last
    messages.append({"role": role, "content": parts})
    return role


def _drop_unanswered(messages: list[dict[str, Any]], notes: dict[str, int]) -> None:
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise Rejection("no_question", "no turn is the user's")
    if "assistant" not in roles:
        raise Rejection("no_answer", "no turn is the assistant's")
    if roles[-1] == "user":
        if any(part["type"] != "text" for part in messages.pop()["content"]):
            raise Rejection("no_answer", "the last question, which has a medium, has none")
        notes["dropped_questions"] = 1


def _read_content(content: Any, number: int) -> tuple[list[Part], list[Reference]]:
    """The parts of a turn, and those of them that stand for media."""
    parts: list[Part] = []
    references: list[Reference] = []
    for item in content if isinstance(content, list) else [content]:
        kind, value = _read_item(item, number)
        if kind != "text":
            parts.append({"type": kind})
            references.append(Reference(parts[-1], value))
            continue
        at = 0
        for tag in TAG.finditer(value):
            if tag.start() > at:
                parts.append({"type": "text", "text": value[at : tag.start()]})
            image, video, bare = tag.groups()
            parts.append({"type": bare or ("image" if image else "video")})
            references.append(Reference(parts[-1], image or video))
            at = tag.end()
        if at < len(value):
            parts.append({"type": "text", "text": value[at:]})
    return parts, references


def _read_item(item: Any, number: int) -> tuple[str, Any]:
    """Kind of a part, and its text or what it says its medium is (None: the row's next one)."""
    if isinstance(item, str):
        return "text", item
    if isinstance(item, dict):
        name = item.get("type") or next((key for key in PART_KINDS if item.get(key)), None)
        kind = PART_KINDS.get(name) if isinstance(name, str) else None
        if kind == "text" and isinstance(item.get("text"), str):
            return kind, item["text"]
        if kind in MEDIA_KEYS:
            return kind, name_in(item)
    raise Rejection("bad_turn", f"turn {number} holds {brief(item)}, not text")


def _place(
    messages: list[dict[str, Any]], references: list[Reference], pools: dict[str, list[Medium]]
) -> list[Reference]:
    """The references, for which there are as many media; adds the one that may be missing."""
    if not references and len(pools["image"]) + len(pools["video"]) == 1:
        references = [Reference({"type": "image" if pools["image"] else "video"}, None)]
        first = next(message for message in messages if message["role"] == "user")
        first["content"].insert(0, references[0].part)
    rest = [part for part, claim in references if claim is None]
    if pools["video"] and not pools["image"] and all(part["type"] == "image" for part in rest):
        for part in rest:
            part["type"] = "video"
    found = [part["type"] for part in rest]
    for kind, pool in pools.items():
        if (count := found.count(kind)) != len(pool):
            detail = f"{count} <{kind}> in the text for {len(pool)} {kind}s"
            raise Rejection("placeholder_mismatch", detail)
    return references


def _is_blank(parts: list[Part]) -> bool:
    if parts and (parts[0]["type"] != "text" or not parts[0]["text"].isspace()):
        return False
    return all(part["type"] == "text" and part["text"].isspace() for part in parts)
