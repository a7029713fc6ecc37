"""Which checkpoint a report is about, how it was chosen, and what that does to its scores."""

from __future__ import annotations

from shardline.reporting.artefacts import Json
from shardline.reporting.numbers import count, plural

SELECTED = "selected on test"
SELECTED_MEANS = (
    "it, or a model that it was trained from, was chosen by its loss on items of this benchmark, "
    "so that the score is likely too high for new ones."
)


def checkpoint_note(summary: Json, stage: str) -> str:
    """What a stage was validated on, how that ended, and which step's weights were exported."""
    figures, export = (summary["stages"].get(f"{kind}/{stage}", {}) for kind in ("train", "export"))
    parts = []
    if parent := figures.get("continues"):
        parts.append(f"It extends the run of {parent['stage']} from step {parent['step']}.")
    if watched := figures.get("validation"):
        part = "samples held out of " if watched["held_out"] else "samples of "
        parts.append(
            f"Validated every {plural(watched['every'], 'step')} on {count(watched['samples'])} "
            f"{part}{' and '.join(watched['datasets'])}."
        )
    if best := figures.get("best"):
        parts.append(
            f"The lowest validation loss is {best['validation_loss']:.4f}, at step {best['step']}."
        )
    if reason := figures.get("stopped_early"):
        parts.append(f"The training ended early, at step {figures['steps']}: {reason}.")
    if export.get("export_from", "last") not in ("last", None):
        parts.append(f"The exported model is that of step {export['step']}.")
    return " ".join(parts)
