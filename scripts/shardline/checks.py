"""What `shardline doctor` finds out: one thing about the machine, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "missing"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's answer.

    ``required``: nothing works while this is not ok; other lines matter only to some users.
    """

    name: str
    state: State
    found: str
    advice: str = ""
    required: bool = False
