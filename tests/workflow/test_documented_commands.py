"""The commands of the documentation, as they stand there; those of Snakemake as dry runs."""

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
SERVES = "shardline mlflow"  # until it is stopped


def commands(program: str) -> list[tuple[str, str]]:
    """Page and command line of every call of a program."""
    return [
        (page.name, line.partition("|")[0].partition("#")[0].strip())
        for page in PAGES
        for line in re.findall(rf"^{program} .*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]


CALLS = [call for call in commands("shardline") if call[1] != SERVES]


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


@pytest.mark.parametrize(("page", "command"), commands("snakemake"))
def test_a_documented_command_is_one(workspace, page, command):
    code, output = run(workspace, "-m", *shlex.split(command), "-n")
    assert code == 0, f"{page}: {output[-2000:]}"


@pytest.mark.parametrize(("page", "command"), CALLS)
def test_a_documented_call_of_the_command_line_is_understood(workspace, page, command):
    """There are no results to look at: whether it is refused for how it is called."""
    entry = "from shardline.cli.main import run; run()"
    _, output = run(workspace, "-c", entry, *shlex.split(command)[1:])
    for complaint in ("usage:", "no recipe is named", "Traceback"):
        assert complaint not in output, f"{page}: {output[-2000:]}"


def run(workspace: Workspace, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=workspace.folder,
        env={**workspace.environment, "PYTHONPATH": "scripts"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
