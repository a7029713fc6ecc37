"""Reject samples with an image or video that has too few or too many pixels.

Sizes are those of the audit: in pixels, upright. 0 is no limit. A medium without a known size is
not judged, but counted.
"""

from __future__ import annotations

from shardline.decisions import Context, Decision, Verdict, check_limits
from shardline.figures import spread
from shardline.samples import Medium, Samples

DEFAULTS = {
    "min_width": 0,
    "max_width": 0,
    "min_height": 0,
    "max_height": 0,
    "min_pixels": 0,
    "max_pixels": 0,
}
CONTEXT = ()
SIDES = ("width", "height", "pixels")


def check(options: dict[str, int]) -> None:
    """See that some size can pass.

    Raises:
        ConfigError: a minimum above its maximum.
    """
    for side in SIDES:
        check_limits(options, f"min_{side}", f"max_{side}")


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject ``too_small`` and ``too_large`` samples; one medium that is so is enough."""
    rejected = {}
    media = 0
    unknown = 0
    seen: dict[str, list[int]] = {side: [] for side in SIDES}
    for sample in samples:
        media += len(sample.media)
        for medium in sample.media:
            if not medium.width or not medium.height:
                unknown += 1
                continue
            sizes = _sizes(medium)
            for side, value in sizes.items():
                seen[side].append(value)
            if sample.id not in rejected and (found := _problem(sizes, context.options)):
                reason, limit = found
                size = f"{medium.width}x{medium.height}"
                detail = {"path": medium.path, "size": size, "limit": limit}
                rejected[sample.id] = Decision(reason, detail)
    figures = {
        "media": media,
        "of_unknown_size": unknown,
        **{side: spread(values) for side, values in seen.items()},
    }
    return Verdict(rejected, figures)


def _sizes(medium: Medium) -> dict[str, int]:
    values = (medium.width, medium.height, medium.width * medium.height)
    return dict(zip(SIDES, values, strict=True))


def _problem(sizes: dict[str, int], options: dict[str, int]) -> tuple[str, str] | None:
    """The reason, and the limit that is broken."""
    for side, value in sizes.items():
        least, most = options[f"min_{side}"], options[f"max_{side}"]
        if value < least:
            return "too_small", f"min_{side} {least}"
        if most and value > most:
            return "too_large", f"max_{side} {most}"
    return None
