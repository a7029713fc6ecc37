"""The Snakemake commands of the documentation, as they stand there, as dry runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import yaml

from project_root import ROOT
from workflow.workspace import Workspace

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    (page.name, line.partition("|")[0].partition("#")[0].strip())
    for page in PAGES
    for line in re.findall(r"^snakemake .*$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A project whose mine.yaml has the entries that the pages show."""
    workspace = Workspace.create(tmp_path_factory.mktemp("documented") / "project")
    mine = {
        "datasets": {},
        "recipes": {"my_recipe": {"extends": "showui", "train": ["my_screens"]}},
    }
    for page in PAGES:
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for key in mine:
                mine[key] |= yaml.safe_load(block).get(key, {})
    for entry in mine["datasets"].values():
        folder = workspace.path("data")
        folder.mkdir(exist_ok=True)
        (folder / "rows.json").write_text("[]")
        entry["source"] = f"folder:{folder}"
    workspace.path("mine.yaml").write_text(yaml.safe_dump(mine))
    return workspace


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_documented_command_is_one(workspace, page, command):
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command), "-n"],
        cwd=workspace.folder,
        env=workspace.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{page}: {done.stdout[-2000:]}"
