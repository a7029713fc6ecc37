"""Reject samples with an image or video that is much longer than wide, or wider than long.

``max_ratio`` is the longer side over the shorter one; 0 is no limit. The default is the most that
the image processors of the Qwen-VL families take. A medium without a known size is not judged, but
counted.
"""

from __future__ import annotations

import math

from shardline.decisions import Context, Decision, Verdict
from shardline.errors import ConfigError
from shardline.figures import spread
from shardline.samples import Samples

DEFAULTS = {"max_ratio": 200.0}
CONTEXT = ()


def check(options: dict[str, float]) -> None:
    """See that some picture can pass.

    Raises:
        ConfigError: a ratio that is none.
    """
    ratio = options["max_ratio"]
    if ratio != 0 and not 1 <= ratio < math.inf:
        raise ConfigError(f"max_ratio: {ratio!r}; allowed: 1 or more (long side / short), 0: any")


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject ``extreme_aspect`` samples; one medium that is so is enough."""
    most = context.options["max_ratio"]
    rejected = {}
    media = 0
    ratios = []
    for sample in samples:
        media += len(sample.media)
        for medium in sample.media:
            if not medium.width or not medium.height:
                continue
            shorter, longer = sorted((medium.width, medium.height))
            ratios.append(round(longer / shorter, 4))
            if most and longer > most * shorter and sample.id not in rejected:
                size = f"{medium.width}x{medium.height}"
                detail = {"path": medium.path, "size": size, "ratio": ratios[-1]}
                rejected[sample.id] = Decision("extreme_aspect", detail)
    figures = {"media": media, "of_unknown_size": media - len(ratios), "ratio": spread(ratios)}
    return Verdict(rejected, figures)
