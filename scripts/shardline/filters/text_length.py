"""Reject samples whose answers or instructions are too short or too long.

Lengths are in characters (Unicode code points) without white space at the ends, and 0 is no limit.
The answer is all assistant text of a sample together, the instruction all user text together;
what the system says does not count. In a sample of labelled boxes or points each label is an
instruction of its own: the shortest has to reach the minimum, the longest to keep the maximum. Such
a sample without messages has no answer yet, as it is written for the model at tokenisation, and is
not judged by one.
"""

from __future__ import annotations

from shardline.decisions import Context, Decision, Verdict, check_limits
from shardline.figures import spread
from shardline.samples import Sample, Samples, texts

DEFAULTS = {"min_answer": 0, "max_answer": 0, "min_instruction": 0, "max_instruction": 0}
CONTEXT = ()
PARTS = ("answer", "instruction")


def check(options: dict[str, int]) -> None:
    """See that some length can pass.

    Raises:
        ConfigError: a minimum above its maximum.
    """
    for part in PARTS:
        check_limits(options, f"min_{part}", f"max_{part}")


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject ``answer_too_short``, ``instruction_too_long`` and the like; the first that holds."""
    rejected = {}
    seen: dict[str, list[int]] = {part: [] for part in PARTS}
    for sample in samples:
        lengths = dict(zip(PARTS, (_answer(sample), _instructions(sample)), strict=True))
        for part, found in lengths.items():
            seen[part] += found
        if decision := _decide(lengths, context.options):
            rejected[sample.id] = decision
    return Verdict(rejected, {f"{part}_characters": spread(seen[part]) for part in PARTS})


def _decide(lengths: dict[str, list[int]], options: dict[str, int]) -> Decision | None:
    for part, found in lengths.items():
        if not found:
            continue
        least, most = options[f"min_{part}"], options[f"max_{part}"]
        if min(found) < least:
            return Decision(f"{part}_too_short", {"characters": min(found), f"min_{part}": least})
        if most and max(found) > most:
            return Decision(f"{part}_too_long", {"characters": max(found), f"max_{part}": most})
    return None


def _answer(sample: Sample) -> list[int]:
    if not sample.messages and _labels(sample):
        return []
    return [_length(texts(sample, "assistant"))]


def _instructions(sample: Sample) -> list[int]:
    labels = [_length([label]) for label in _labels(sample)]
    said = texts(sample, "user")
    return [*([_length(said)] if said or not labels else []), *labels]


def _labels(sample: Sample) -> list[str]:
    return [target.label for target in sample.boxes or sample.points]


def _length(parts: list[str]) -> int:
    return sum(len(part.strip()) for part in parts)
