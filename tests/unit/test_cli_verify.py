"""`shardline verify`: one flipped byte anywhere is found and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardline import integrity, paths
from shardline.cli.main import main
from shardline.errors import UserError
from shardline.files import read_json, write_json

RESULTS = Path("results")
FILES = {
    "raw": "data/screens/images/3.png",
    "annotations": "data/held_out/screenspot_web_v2.json",
    "base model": "data/base/tokenizer.json",
    "converted": "results/converted/screens/samples-00000.jsonl.zst",
    "decisions": "results/filtered/screens/*/decisions-00000-png.jsonl",
    "image shard": "results/filtered/screens/*/shard-00000-png.tar",
    "token shard": "results/tokens/screens/*/shard-00000-png.tar",
    "token index": "results/tokens/screens/*/shard-00000-png.index.parquet",
    "plan": "results/plans/small/sft.parquet",
    "weights": "results/checkpoints/small/adapt/work/*/final/model.safetensors",
    "export": "results/models/small/adapt/adapter/model.safetensors",
}


def find(pattern: str) -> Path:
    (file,) = Path().glob(pattern)
    return file


def flip(file: Path) -> None:
    """Change one bit in the middle of a file, and neither its size nor its time."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_a_finished_project_is_as_recorded(small_project, capsys):
    main(["verify"])
    text = capsys.readouterr().out
    assert "bad" not in text
    assert " files as recorded" in text
    for part in (
        "raw/screens",
        "plans/small/sft",
        "checkpoints/small/adapt",
        "models/small/sft/merged",
    ):
        assert part in text


@pytest.mark.parametrize("kind", FILES)
def test_one_flipped_bit_is_found(small_project, kind, capsys):
    file = find(FILES[kind])
    flip(file)
    with pytest.raises(UserError, match=r"1 of \d+ files or lists are not as recorded") as error:
        main(["verify"])
    assert file.name in str(error.value)
    assert capsys.readouterr().out.count("1 bad") == 1


@pytest.mark.parametrize("kind", ["raw", "token shard", "weights"])
def test_a_missing_file_is_found(small_project, kind):
    file = find(FILES[kind])
    file.unlink()
    with pytest.raises(UserError, match=rf"{file.name}: missing; results/.* lists it"):
        main(["verify"])


def test_a_shorter_file_is_found_without_reading_it(small_project):
    file = find(FILES["image shard"])
    file.write_bytes(file.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"\d+ bytes; .*manifest.json lists \d+"):
        main(["verify"])


def test_a_raw_file_that_no_lock_knows_is_found(small_project):
    Path("data/screens/images/99.png").write_bytes(b"new")
    with pytest.raises(UserError, match=r"99.png: not in results/raw/screens.lock.json"):
        main(["verify"])


def test_a_list_that_was_edited_is_found(small_project):
    listing = Path("results/raw/screens.files.tsv")
    listing.write_text(listing.read_text().replace("images/3.png", "images/x.png"))
    with pytest.raises(UserError, match=r"screens.files.tsv is not the list"):
        main(["verify"])


def test_a_broken_manifest_is_a_problem_and_the_rest_is_verified(small_project, capsys):
    Path(paths.converted("screens")).write_text("{")
    with pytest.raises(UserError, match=r"converted/screens/manifest.json: not valid JSON"):
        main(["verify", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["files"] > 20
    assert len(found["problems"]) == 1


def test_a_recipe_needs_all_its_manifests_and_nothing_else(small_project):
    write_json(Path("results/converted/unrelated/manifest.json"), {"stage": "convert"})
    main(["verify", "--recipe", "small"])
    with pytest.raises(UserError, match=r"unrelated/manifest.json: not a manifest"):
        main(["verify"])
    Path(paths.result("small", "adapt")).unlink()
    with pytest.raises(UserError, match=r"small/adapt/result.json: no such file"):
        main(["verify", "--recipe", "small"])


def test_nothing_to_verify_is_no_success(tmp_path, monkeypatch):
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing to verify"):
        main(["verify"])


def test_other_versions_are_a_note_and_no_failure(small_project, capsys):
    main(["verify"])
    text = capsys.readouterr().out
    assert "pillow 0.0.1 made results/checkpoints/small/adapt/result.json and 1 more" in text


def test_problems_come_in_one_order_whatever_the_threads(small_project):
    for pattern in FILES.values():
        flip(find(pattern))
    found = []
    for threads in (1, 4):
        listing = integrity.collect(integrity.manifests_of_results(RESULTS), RESULTS)
        checked = integrity.check(listing.entries, threads)
        found.append([problem for _, problem in checked if problem])
    assert found[0] == found[1]
    assert len(found[0]) == len(FILES)


def test_results_behind_a_link_are_verified(small_project, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk") / "results"
    Path("results").rename(disk)
    Path("results").symlink_to(disk)
    main(["verify"])
    flip(find(FILES["token shard"]))
    with pytest.raises(UserError):
        main(["verify"])


def test_a_file_in_two_manifests_is_read_once(small_project):
    listing = integrity.collect(integrity.manifests_of_results(RESULTS) * 2, RESULTS)
    assert len({entry.path for entry in listing.entries}) == len(listing.entries)
    assert listing.bytes > 0
    assert read_json(Path(paths.lock("screens")))["files"] == 11
