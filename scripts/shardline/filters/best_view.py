"""Keep one view of each group of views: the one that ``scorer`` finds best.

``score`` names which of the scorer's numbers decides: ``scorer: clip_quality, score: high`` takes
the nearness to good prompts alone, as VaseVQA-3D does, and shares the scores of the CLIP filter.
Of equal scores the lowest view number wins, then the first in the dataset's order. Every sample
about the chosen view stays. Samples without a group are not judged. A group's other views are gone
for the filters after this one, so it stands last in a chain; the summary counts the groups of which
nothing is left, whichever filter took it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from shardline.decisions import Context, Decision, Verdict
from shardline.errors import ConfigError
from shardline.figures import spread
from shardline.samples import Samples
from shardline.scoring import images_of
from shardline.views import best_view, views_by_group

DEFAULTS = {"scorer": "sharpness", "scorer_options": {}, "score": "score"}
CONTEXT = ()


def check(options: dict[str, Any]) -> None:
    """See that all views are scored; the scorer checks the rest.

    Raises:
        ConfigError: only a share of them would be.
    """
    if (share := options["scorer_options"].get("share", 1)) != 1:
        raise ConfigError(f"scorer_options: share {share!r}; allowed: 1.0, for views are compared")


def scorer(options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The scorer that the options name."""
    return options["scorer"], options["scorer_options"]


def judge(samples: Samples, context: Context) -> Verdict:
    """Reject the samples of all other views as ``not_best_view``.

    Raises:
        ConfigError: the scorer gives no number of the name ``score``.
    """
    number = context.options["score"]
    images = images_of(sample for sample in samples if sample.group)
    try:
        scores = {sha256: context.scores[sha256][number] for sha256 in images}
    except KeyError:
        known = ", ".join(next(iter(context.scores.values())))
        raise ConfigError(
            f"best_view.score: {number!r}; {context.options['scorer']} gives: {known}"
        ) from None
    groups = views_by_group(samples, scores)
    rejected = {}
    best_scores = []
    ties = 0
    for group, views in groups.items():
        best = best_view(views)
        best_scores.append(best.score)
        ties += any(view.score == best.score for view in views if view is not best)
        for view in views:
            if view is not best:
                detail = {
                    "group": group,
                    "score": view.score,
                    "best": list(best.paths),
                    "best_score": best.score,
                }
                rejected |= {name: Decision("not_best_view", detail) for name in view.samples}
    sizes = Counter(len(views) for views in groups.values())
    figures = {
        "groups": len(groups),
        "views": sum(len(views) for views in groups.values()),
        "groups_by_views": {str(views): count for views, count in sorted(sizes.items())},
        "images": len(scores),
        "ties": ties,
        "best_scores": spread(score for score in best_scores if score is not None),
        "samples_without_group": sum(not sample.group for sample in samples),
    }
    return Verdict(rejected, figures)
