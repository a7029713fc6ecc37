"""The pictures of a dataset's filters, as the page shows them."""

from __future__ import annotations

import base64

from shardline.reporting.artefacts import Artefacts, Json
from shardline.reporting.charts import histogram


def filter_pictures(name: str, variant: str | None, artefacts: Artefacts) -> list[Json]:
    """Title, caption, and ``chart`` (SVG) or ``image`` (a data address) of each picture."""
    folder = f"filtered/{name}/{variant}"
    index = artefacts.json(f"{folder}/pictures.json") or {"pictures": []}
    shown = []
    for picture in index["pictures"]:
        content = {"chart": "", "image": "", "width": 0, "height": 0, **picture}
        if picture["kind"] == "histogram":
            parts = {key: picture[key] for key in ("edges", "counts", "threshold")}
            content["chart"] = histogram(**parts, x_label="score", y_label="images")
        elif (path := artefacts.path(f"{folder}/pictures/{picture['file']}")).is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            content["image"] = f"data:image/jpeg;base64,{data}"
        shown.append(content)
    return shown
