"""A copy of the project in which tests run real Snakemake."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from project_root import ROOT

PARTS = ("Snakefile", "rules", "scripts", "config", "profiles", "envs")
MINI = {
    "datasets": {
        "demo_screens": {"source_options": {"screens": 18}, "shard_rows": 9},
        "demo_night": {"source_options": {"screens": 10}},
        "demo_test": {"source_options": {"screens": 4}},
    },
    "recipes": {
        "mini": {
            "extends": "demo",
            "stages.sft.steps": 4,
            "stages.sft.global_batch.samples": 4,
            "stages.adapt.steps": 3,
            "stages.adapt.global_batch.samples": 4,
        }
    },
    "build": ["mini"],
}


@dataclass
class Run:
    """What a Snakemake call printed and how it ended."""

    code: int
    output: str

    @property
    def jobs(self) -> Counter[str]:
        """Rule -> number of jobs in the first job table; empty when there was nothing to do."""
        table = re.search(r"^job +count\n-+ +-+\n(.*?)^total ", self.output, re.M | re.S)
        lines = table[1].splitlines() if table else []
        return Counter({line.split()[0]: int(line.split()[1]) for line in lines})

    @property
    def executed(self) -> Counter[str]:
        """Rule -> number of jobs that really ran."""
        return Counter(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", self.output, re.M))


class Workspace:
    """A project copy with its own results; call `snakemake` in it as a user would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "mini.yaml"

    @classmethod
    def create(cls, folder: Path) -> Workspace:
        """Copy the project's files, without results."""
        folder.mkdir(parents=True)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=ignore)
            else:
                shutil.copy2(source, folder / part)
        workspace = cls(folder)
        workspace.write_config(MINI)
        return workspace

    def clone(self, folder: Path) -> Workspace:
        """The same project, results and records included, elsewhere; times are kept."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Workspace(folder)

    def write_config(self, config: dict) -> None:
        """Write the user's config file that every call reads."""
        self.config.write_text(yaml.safe_dump(config, sort_keys=False))

    def command(self, *words: str, profile: str = "local") -> list[str]:
        """The command line of a Snakemake call."""
        return [
            *(sys.executable, "-m", "snakemake", "--profile", f"profiles/{profile}"),
            *words,
            *("--configfile", self.config.name),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """The caller's environment, without what would leak results or threads into the run."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHONDONT"))}
        return {**kept, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}

    def snakemake(
        self,
        *words: str,
        profile: str = "local",
        check: bool = True,
        extra: dict[str, str] | None = None,
    ) -> Run:
        """Run Snakemake, with ``extra`` environment variables, and wait for it."""
        done = subprocess.run(
            self.command(*words, profile=profile),
            cwd=self.folder,
            env={**self.environment, **(extra or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        run = Run(done.returncode, done.stdout)
        assert not check or run.code == 0, run.output[-6000:]
        return run

    def dry_run(self, *words: str, **options) -> Run:
        """What would run, and why."""
        return self.snakemake("--dry-run", *words, **options)

    def start(self, log: Path, *words: str) -> subprocess.Popen[bytes]:
        """Start Snakemake in a process group of its own, for tests that kill it."""
        with open(log, "wb") as output:
            return subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def path(self, name: str) -> Path:
        """A file of the project copy."""
        return self.folder / name

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in one of the copy's files; the text must be there."""
        file = self.path(name)
        text = file.read_text()
        assert old in text, f"{old!r} is not in {name}"
        file.write_text(text.replace(old, new))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a whole process group that this test started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition, seconds: float = 120) -> None:
    """Poll until a condition holds; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


STAGES = ("raw", "converted", "filtered", "tokens", "plans", "models", "evals")


def assert_same_artefacts(
    found: Workspace, expected: Workspace, stages: Sequence[str] = STAGES
) -> None:
    """Every file of these stages is there and has the same bytes; hidden ones are no artefacts."""
    for part in stages:
        left, right = (
            _contents(workspace.path("results") / part) for workspace in (found, expected)
        )
        assert left.keys() == right.keys(), part
        different = [name for name in right if left[name] != right[name]]
        assert not different, different


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }
