"""A conversion killed outright, and run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from raw_datasets import command_line, lock, picture, save, tree_bytes

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
FORMAT = """
import os, signal
from shardline.rows import Element, Row
from shardline.samples import Medium

class Dying:
    DEFAULTS = {}

    @staticmethod
    def read(raw, options):
        for index, path in enumerate(sorted((raw / "images").iterdir())):
            if index == int(os.environ.get("DIE_AT", -1)):
                os.kill(os.getpid(), signal.SIGKILL)
            media = [Medium(kind="image", path=f"images/{path.name}")]
            elements = [Element(label=path.stem, box=[0, 0, 9, 9])]
            yield Row(file="list.txt", index=index, media=media, elements=elements)

shardline_formats = {"dying": Dying}
"""


def test_sigkill_leaves_no_manifest_and_the_next_run_the_same_bytes(tmp_path):
    folder, plugin = tmp_path / "data", tmp_path / "dying.py"
    for number in range(10):
        save(picture(number), folder / f"images/{number}.png")
    (folder / "list.txt").write_text("")
    plugin.write_text(FORMAT)
    options = {
        "format": "dying",
        "frame": "pixel_xyxy",
        "shard_rows": 3,
        "max_reject_share": 0,
        "max_pixels": 10**6,
        "plugins": [str(plugin)],
    }

    def run(results, **environment):
        lock(results, "d", folder)
        converted = results / "converted/d"
        arguments = command_line(
            dataset="d",
            options=json.dumps(options),
            raw=results / "raw/d",
            lock=results / "raw/d.lock.json",
            manifest=converted / "manifest.json",
            rejects=converted / "rejects.jsonl",
        )
        command = [sys.executable, SCRIPTS / "convert_dataset.py", *arguments]
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode

    def finished(results):
        files = tree_bytes(results / "converted/d")
        return {name: data for name, data in files.items() if not name.startswith(".")}

    assert run(tmp_path / "whole") == 0
    for place in ("0", "4", "9"):
        assert run(tmp_path / "killed", DIE_AT=place) == -signal.SIGKILL
        left = finished(tmp_path / "killed")
        assert "manifest.json" not in left and "rejects.jsonl" not in left
        assert left.items() <= finished(tmp_path / "whole").items()
    assert run(tmp_path / "killed") == 0
    assert finished(tmp_path / "killed") == finished(tmp_path / "whole")
