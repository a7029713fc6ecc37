"""Which code and which packages run: facts for people, on which nothing depends."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from shardline.files import sha256_file

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "envs/requirements.lock"
SECONDS = 10  # patience with git


def provenance() -> dict[str, Any]:
    """``{"git", "lock_sha256"}`` of this code; empty and None where it has none."""
    lock = sha256_file(LOCK) if LOCK.is_file() else None
    return {"git": git_facts(ROOT), "lock_sha256": lock}


def git_facts(folder: Path) -> dict[str, Any]:
    """``{"commit", "dirty"}`` of the repository around a folder; empty where there is none.

    ``dirty``: tracked files differ from the commit.
    """
    commit = _ask(folder, "rev-parse", "HEAD")
    changes = _ask(folder, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None:
        return {}
    return {"commit": commit, "dirty": bool(changes)}


def _ask(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
