"""Reject samples written in other scripts than ``allowed``, such as ``[latin, han]``.

Judged are the letters of all that user and assistant say and of the labels: at least ``min_share``
of them must be of an allowed script. It tells Russian from English, but not French from English:
that takes a model. Japanese is ``[han, hiragana, katakana]``; the words of markup and code are
latin. An empty list allows all. A sample without letters (numbers, or only pictures) is kept and
counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from shardline.decisions import Context, Decision, Verdict
from shardline.errors import ConfigError
from shardline.samples import Sample, Samples, texts
from shardline.writing import NAMES, letters_by_script

DEFAULTS = {"allowed": [], "min_share": 0.9}
CONTEXT = ()


def check(options: dict[str, Any]) -> None:
    """See that the scripts are known and the share is one.

    Raises:
        ConfigError: they are not.
    """
    for name in options["allowed"]:
        if name not in NAMES:
            raise ConfigError(f"allowed: {name!r} is no script; there are: {', '.join(NAMES)}")
    if not 0 <= options["min_share"] <= 1:
        raise ConfigError(f"min_share: {options['min_share']!r}; allowed: from 0 to 1")


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject samples with too many letters of other scripts, as ``other_script``."""
    allowed, least = context.options["allowed"], context.options["min_share"]
    rejected = {}
    total: Counter[str] = Counter()
    without_letters = 0
    for sample in samples:
        letters = letters_by_script("\n".join(_said(sample)))
        total += letters
        if not letters:
            without_letters += 1
            continue
        share = sum(letters[name] for name in allowed) / letters.total()
        if allowed and share < least:
            detail = {"allowed_share": round(share, 4), "letters": dict(sorted(letters.items()))}
            rejected[sample.id] = Decision("other_script", detail)
    figures = {"letters": dict(sorted(total.items())), "samples_without_letters": without_letters}
    return Verdict(rejected, figures)


def _said(sample: Sample) -> list[str]:
    return [
        *texts(sample, "user", "assistant"),
        *(target.label for target in sample.boxes or sample.points),
    ]
