"""What all sections of config share: unknown keys are errors, names are plain words."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Strict(BaseModel):
    """A section of config: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)
