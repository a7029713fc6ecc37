"""Fingerprints of code: what changes them, what does not, and how far they reach."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shardline import fingerprint

SOURCE = '''
"""Docstring."""
import os  # comment


def area(width: int, height: int = 3, *rest, unit="px", **more) -> str:
    """Docstring."""
    if (found := width * height) > 3:
        return f"{found!r:>{width}} {unit} " "and" f" {more['a']}"
    return [x async for x in rest] if False else (lambda: 1_000)()


class Box[T] if False else object:
    pass
'''.replace("class Box[T] if False else object:\n    pass\n", "class Box:\n    side: int = 0x10\n")
GOLDEN = "83802d91"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project of a program and the library modules it may import."""
    files = {
        "scripts/make_tea.py": "from lib import kettle\nfrom lib.cups import mug\n",
        "scripts/make_toast.py": "def main():\n    import lib.bread.rye\n",
        "scripts/lib/__init__.py": "",
        "scripts/lib/kettle.py": "from . import water\n",
        "scripts/lib/water.py": "TEMPERATURE = 100\n",
        "scripts/lib/cups.py": "mug = 1\n",
        "scripts/lib/bread/__init__.py": "",
        "scripts/lib/bread/rye.py": "from ..water import TEMPERATURE\n",
        "scripts/lib/jam.py": "sugar = 1\n",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(fingerprint, "SCRIPTS", tmp_path / "scripts")
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    return tmp_path


def names(*roots: str) -> set[str]:
    return {entry.split("@")[0].removeprefix("scripts/") for entry in fingerprint.closure(*roots)}


def test_closure_follows_relative_and_nested_imports(project):
    tea = {"make_tea.py", "lib/__init__.py", "lib/kettle.py", "lib/water.py", "lib/cups.py"}
    assert names("scripts/make_tea.py") == tea
    assert names("scripts/make_toast.py") == {
        *("make_toast.py", "lib/__init__.py", "lib/bread/__init__.py", "lib/bread/rye.py"),
        "lib/water.py",
    }
    assert names("scripts/make_tea.py", "scripts/lib/jam.py") == tea | {"lib/jam.py"}


def test_a_change_reaches_exactly_the_programs_that_import_it(project):
    before = {
        name: fingerprint.closure(f"scripts/{name}.py") for name in ("make_tea", "make_toast")
    }
    (project / "scripts/lib/cups.py").write_text("mug = 2\n")
    after = {name: fingerprint.closure(f"scripts/{name}.py") for name in before}
    assert after["make_toast"] == before["make_toast"]
    changed = set(after["make_tea"]) - set(before["make_tea"])
    assert [entry.split("@")[0] for entry in changed] == ["scripts/lib/cups.py"]


@pytest.mark.parametrize(
    "edited",
    [
        "# a comment\n" + SOURCE,
        SOURCE.replace('"""Docstring."""', '"""Another text, longer than before."""'),
        SOURCE.replace('    """Docstring."""\n', ""),
        SOURCE.replace("1_000", "1000").replace("0x10", "16"),
        SOURCE.replace('unit="px"', "unit = 'px'"),
        SOURCE.replace("width: int, height: int = 3", "width: int,\n    height: int = 3"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_count(edited):
    assert edited != SOURCE
    assert fingerprint.source_digest(edited) == fingerprint.source_digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("height: int = 3", "height: int = 4"),
        ("found!r", "found!s"),
        ("> 3", ">= 3"),
        ("side: int = 0x10", "side: float = 0x10"),
        ("import os", "import re"),
        ("1_000", "1_000.0"),
        ("*rest", "*others"),
    ],
)
def test_code_counts(old, new):
    assert fingerprint.source_digest(SOURCE.replace(old, new)) != fingerprint.source_digest(SOURCE)


def test_golden_digest_is_the_same_on_every_python_version(tmp_path):
    assert fingerprint.source_digest(SOURCE) == GOLDEN
    (tmp_path / "source.py").write_text(SOURCE)
    program = (
        "import sys, types; sys.modules['zstandard'] = types.ModuleType('zstandard')\n"
        f"sys.path.insert(0, {str(Path(fingerprint.__file__).parents[1])!r})\n"
        "from shardline import fingerprint\n"
        f"print(fingerprint.source_digest(open({str(tmp_path / 'source.py')!r}).read()))"
    )
    for version in ("3.11", "3.12", "3.13"):
        python = (
            sys.executable if version == f"3.{sys.version_info.minor}" else interpreter(version)
        )
        if python:
            done = subprocess.run(
                [python, "-c", program], capture_output=True, text=True, check=True
            )
            assert done.stdout.strip() == GOLDEN, version


def interpreter(version: str) -> str | None:
    """Another Python of this machine that starts, if there is one."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(":")]
    folders += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"))
    for folder in folders:
        python = shutil.which(f"python{version}", path=str(folder))
        if (
            python
            and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
        ):
            return python
    return None


def test_accepted_change_keeps_the_old_digest(project):
    file = project / "scripts/lib/cups.py"
    before = fingerprint.closure("scripts/make_tea.py")
    old = fingerprint.module_digest(file)
    for text in ("mug = 1 + 0\n", "mug = 0 + 1\n"):
        file.write_text(text)
        new = fingerprint.module_digest(file)
        accepted = project / fingerprint.ACCEPTED
        accepted.parent.mkdir(exist_ok=True)
        entries = json.loads(accepted.read_text()) if accepted.exists() else []
        entries.append({"module": "scripts/lib/cups.py", "old": old, "new": new})
        accepted.write_text(json.dumps(entries))
        assert fingerprint.closure("scripts/make_tea.py") == before
        old = new
    file.write_text("mug = 2\n")
    assert fingerprint.closure("scripts/make_tea.py") != before


def test_a_template_counts_for_the_module_that_names_it(project):
    (project / "scripts/lib/cups.py").write_text("mug = 'label.html'\n")
    (project / "scripts/lib/label.html").write_text("<p>")
    before = fingerprint.closure("scripts/make_tea.py")
    assert any(entry.startswith("scripts/lib/label.html@") for entry in before)
    (project / "scripts/lib/label.html").write_text("<p>hot")
    assert fingerprint.closure("scripts/make_tea.py") != before
    assert "lib/label.html" not in names("scripts/make_toast.py")


def test_plugin_outside_the_project_is_part_of_the_closure(project, tmp_path_factory):
    plugin = tmp_path_factory.mktemp("plugin") / "my_format.py"
    plugin.write_text("from lib.jam import sugar\n")
    assert names("scripts/make_toast.py", plugin) >= {"my_format.py", "lib/jam.py"}
