"""Files of rows by the line, and what became of each row."""

from __future__ import annotations

import json

from raw_datasets import rejects_of, samples_of

TALK = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


def write_lines(folder, lines, name="rows.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / name).write_bytes(b"\n".join(lines))


def outcomes(results, name):
    """``kept`` or the reason of every row, by its number in the one file."""
    found = {reject["row"]: reject["reason"] for reject in rejects_of(results, name)}
    found |= {sample["id"].removeprefix(f"{name}:"): "kept" for sample in samples_of(results, name)}
    return {int(row.partition("#")[2]): outcome for row, outcome in found.items()}
