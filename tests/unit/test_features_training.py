"""A stage that trains on features: its losses, its gates, going on, several ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_models
import tiny_project
import torch
from tiny_project import FROZEN, FULL, LORA, Project
from watched_trainings import start, wait_for_checkpoint

import train_stage
from feature_data import compute
from shardline.errors import ConfigError, DataError, GateError
from shardline.files import read_json, sha256_file
from shardline.training import outcome

TUNES = {
    "tower": {"llm": LORA, "projector": FULL, "vision": FROZEN},
    "projected": {"llm": FULL, "projector": FROZEN, "vision": FROZEN},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return tiny_project.build(tmp_path_factory.mktemp("project"), steps=4)


def features(project: Project, point: str, **options) -> Path:
    tokens = project.results / "tokens/d/t/manifest.json"
    return compute(tokens, project.model, family="qwen2_vl", point=point, **options)


def arguments(project: Project, point: str, manifest: Path | None) -> list[str]:
    """Of train_stage, with features or, for comparison, without."""
    changes = {"tune": TUNES[point], **({"features": point} if manifest else {})}
    return [*project.training(**changes), "--features", *([str(manifest)] if manifest else [])]


def curve(project: Project) -> list[float]:
    return [float.fromhex(loss) for loss in project.losses()]


@pytest.mark.parametrize("point", ["tower", pytest.param("projected", marks=pytest.mark.slow)])
def test_a_stage_learns_from_features_what_it_learns_from_pictures(
    fresh: Project, point: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = features(fresh, point)
    fresh.hardware.write_text("micro_batch: 2\ngradient_checkpointing: true\nworkers: 1\n")
    train_stage.main(arguments(fresh, point, None))
    expected = curve(fresh)
    assert "features_sha256" not in read_json(fresh.stage / "result.json")
    shutil.rmtree(fresh.stage)
    capsys.readouterr()
    train_stage.main(arguments(fresh, point, manifest))
    assert "features: largest relative difference" in capsys.readouterr().out
    assert curve(fresh) == pytest.approx(expected, rel=5e-3)
    result = read_json(fresh.stage / "result.json")
    assert result["features_sha256"] == {manifest.as_posix(): sha256_file(manifest)}
    assert result["gates"]["features"]["passed"] and result["gates"]["packing_parity"]["passed"]
    moved = result["gates"]["freeze_audit"]["moved"]
    assert moved == {"llm": True, "projector": point == "tower", "vision": False}
    if point == "projected":
        final = outcome.final_folder(fresh.stage / "result.json", result)
        assert (final / "model.safetensors").stat().st_size > 0
        tiny_models.family.load_model(final, torch.float32, "cpu")


def test_going_on_repeats_the_uninterrupted_training(fresh: Project) -> None:
    words = arguments(fresh, "tower", features(fresh, "tower"))
    train_stage.main(words)
    losses, result = fresh.losses(), (fresh.stage / "result.json").read_bytes()
    work = fresh.work
    (work / "final.json").unlink()
    shutil.rmtree(work / "final")
    shutil.rmtree(work / "checkpoint-4")
    train_stage.main(words)
    assert fresh.losses() == losses
    assert (fresh.stage / "result.json").read_bytes() == result


def test_other_features_are_another_training_and_those_of_another_model_none(
    fresh: Project, tmp_path: Path
) -> None:
    first = features(fresh, "projected")
    train_stage.main(arguments(fresh, "projected", first))
    with pytest.raises(ConfigError, match="--features: files go with the option `features`"):
        train_stage.main([*fresh.training(), "--features", str(first)])
    (key,) = (folder.name for folder in (fresh.stage / "work").iterdir())
    other = features(fresh, "projected", name="finer", preset="vision_patches: 1\n")
    train_stage.main(arguments(fresh, "projected", other))
    assert len({folder.name for folder in (fresh.stage / "work").iterdir()} - {key}) == 1

    stranger = tiny_models.build(tmp_path / "stranger", seed=1)
    tiny_project.lock_model(stranger)
    tokens = fresh.results / "tokens/d/t/manifest.json"
    wrong = compute(tokens, stranger, family="qwen2_vl", point="projected", name="wrong")
    with pytest.raises(GateError, match=r"features: those of medium 1 of sample 1 differ by"):
        train_stage.main(arguments(fresh, "projected", wrong))
    tar = first.with_name("shard-00000-png.tar")
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"shard-00000-png\.tar: has .* compute its features again"):
        train_stage.main([*arguments(fresh, "projected", first), "--code", "other"])


@pytest.mark.slow
def test_two_ranks_learn_from_features_as_one_does(fresh: Project) -> None:
    manifest = features(fresh, "tower")
    words = {"tune": {**TUNES["tower"], "llm": FULL}, "features": "tower"}
    arguments = [*fresh.training(**words), "--features", str(manifest)]
    train_stage.main(arguments)
    alone = curve(fresh)
    shutil.rmtree(fresh.stage)
    fresh.hardware.write_text("device: cpu\nranks: 2\ncheckpoint_every: 2\n")
    stopped = start(arguments)
    wait_for_checkpoint(fresh, stopped, 2)
    stopped.terminate()
    said = stopped.communicate()[0]
    assert stopped.returncode == 75, said
    finished = start(arguments)
    said = finished.communicate()[0]
    assert finished.returncode == 0 and "resuming at step" in said, said
    assert curve(fresh) == pytest.approx(alone, rel=1e-4)
