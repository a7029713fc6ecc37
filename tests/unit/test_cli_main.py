"""The `shardline` command itself: quick, in a project only, errors without tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.cli.main import COMMANDS, build_parser, main
from shardline.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
HEAVY = {"numpy", "pyarrow", "pydantic", "torch", "transformers", "yaml", "PIL", "mlflow", "jinja2"}


def python(*words: str, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_help_lists_every_command_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "from shardline.cli.main import build_parser\n"
        "print(build_parser(['--help']).format_help())\n"
        "print('MODULES', *sys.modules)"
    )
    text, _, modules = python("-c", code, cwd=tmp_path).stdout.partition("MODULES")
    assert all(f"    {name} " in text for name in COMMANDS)
    assert not HEAVY & set(modules.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as end:
        build_parser([name]).parse_args([name, "--help"])
    assert end.value.code == 0
    assert f"usage: shardline {name}" in capsys.readouterr().out


def test_only_the_called_command_is_built():
    with pytest.raises(SystemExit):
        build_parser(["gc"]).parse_args(["verify"])


def test_outside_a_project_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="it has no Snakefile"):
        main(["gc"])


def test_a_user_error_ends_with_its_message_and_status_1(small_project):
    done = python("-m", "shardline.cli.main", "estimate", "nope", cwd=small_project.root)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no recipe is named 'nope'; there are: other, small")
    assert "Traceback" not in done.stderr


def test_a_config_error_names_file_and_key(small_project):
    (small_project.root / "mine.yaml").write_text("recipes: {small: {sede: 3}}\n")
    with pytest.raises(UserError, match=r"mine.yaml: recipes.small.sede: unknown key"):
        main(["estimate", "small", "--configfile", "mine.yaml"])


def test_a_reader_that_stops_early_is_no_error(small_project):
    command = f"{sys.executable} -m shardline.cli.main lineage --recipe small --stage adapt --json"
    done = python(
        "-c",
        f"import subprocess, sys; sys.exit(subprocess.call({command + ' | true'!r}, shell=True, "
        "executable='/bin/bash'))",
        cwd=small_project.root,
    )
    assert done.stderr == ""
