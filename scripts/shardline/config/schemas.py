"""The JSON schemas in ``config/schemas``, with which editors complete and check the YAML files.

Run ``python -m shardline.config.schemas`` (or ``make schemas``) after a change of `schema`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shardline.config.schema import Config
from shardline.files import write_json

FOLDER = Path(__file__).resolve().parents[3] / "config" / "schemas"


def json_schemas() -> dict[str, dict[str, Any]]:
    """The schema of a whole config, in which every section may be left to another file."""
    schema = Config.model_json_schema()
    schema.pop("required", None)
    recipe = schema["$defs"]["Recipe"]
    recipe["properties"]["extends"] = {
        "type": "string",
        "description": "another recipe; only what differs is written, keys may be dotted",
    }
    recipe["anyOf"] = [
        {"required": ["extends"], "additionalProperties": True},
        {"required": recipe.pop("required"), "additionalProperties": False},
    ]
    recipe.pop("additionalProperties")
    return {"config": schema}


def main() -> None:
    """Write the schemas."""
    for name, schema in json_schemas().items():
        write_json(FOLDER / f"{name}.json", schema)


if __name__ == "__main__":
    main()
