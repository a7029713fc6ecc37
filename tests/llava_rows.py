"""LLaVA rows as tests write and read them."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st

from raw_datasets import (
    rows_in,
)
from shardline.formats import llava

MIB = 1 << 20


def talk(*texts, **fields):
    """A row of alternating questions and answers."""
    speakers = ("human", "gpt")
    turns = [{"from": speakers[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": "7", **fields, "conversations": turns}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(folder, **options):
    return list(rows_in(llava, folder, **options))


def read_one(folder, record, **options):
    write_lines(folder / "rows.jsonl", [record])
    (row,) = read(folder, annotations="rows.jsonl", **options)
    return row


def reasons(rows):
    return Counter(row.rejection.reason if row.rejection else "kept" for row in rows)


def text(value):
    return {"type": "text", "text": value}


EXAMPLES = settings(max_examples=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4)
    ),
    max_leaves=12,
)
