"""Training itself: packs, loss, gates, and resume in real processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import tiny_project
import torch
from tiny_project import FROZEN, FULL, TUNE, Project
from watched_trainings import damaged, start, wait_for_checkpoint

import train_stage
from project_root import ROOT
from shardline.errors import ConfigError, DataError, GateError
from shardline.families import qwen2_vl as family
from shardline.files import read_json
from shardline.loader import PlanDataset
from shardline.plan_file import read_plan
from shardline.row_padding import pad_row, pad_samples
from shardline.training import gates, outcome
from shardline.training.journal import read_journal
from shardline.training.packs import join, split, stock_losses, supervised, token_losses


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return tiny_project.build(tmp_path_factory.mktemp("project"), steps=12)


@pytest.fixture(scope="module")
def model(project: Project) -> torch.nn.Module:
    return family.load_model(project.model, torch.float32, "cpu")


@pytest.fixture(scope="module")
def rows(project: Project) -> list[dict]:
    """Rows of two packs: at least four samples each."""
    data = PlanDataset(project.results, project.plan, project.parquet, family, micro_batch=2)
    return [data[item] for item in range(2)]


def test_padding_changes_no_loss(model, rows):
    for row in rows:
        plain = token_losses(model, family, row)
        longer = pad_row(row, row["input_ids"].shape[1] + 37)
        for padded in (pad_samples(row), longer, pad_row(pad_samples(row), 4000)):
            torch.testing.assert_close(token_losses(model, family, padded), plain)
        assert len(split(longer, family)) == len(split(row, family)) + 1
    gates.packing_parity(model, family, split(longer, family)[-3:])


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    parts: dict[str, list] = {}
    for name, parameter in model.named_parameters():
        parts.setdefault(family.module_of(name), []).append(parameter.grad.flatten())
    model.zero_grad()
    return {module: torch.cat(parts[module]) for module in parts}


def test_a_pack_has_the_losses_and_gradients_of_its_samples(
    model: torch.nn.Module, rows: list[dict]
) -> None:
    samples = split(rows[0], family)
    assert len(samples) >= 4
    alone = [stock_losses(model, family, sample) for sample in samples]
    torch.cat(alone).sum().backward()
    expected = _gradients(model)
    packed = token_losses(model, family, rows[0])
    packed.sum().backward()
    found = _gradients(model)
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=1e-5)
    for module, gradient in expected.items():
        difference = (gradient - found[module]).norm() / gradient.norm()
        assert difference < 1e-5, module


def test_splitting_and_joining_are_inverse(rows: list[dict]) -> None:
    joined = join(split(rows[0], family))
    for name in ("input_ids", "labels", "position_ids", "cu_seq_lens_q", "image_grid_thw"):
        assert torch.equal(joined[name], rows[0][name])
    assert joined["max_length_q"] == rows[0]["max_length_q"]
    assert all(torch.equal(*pair) for pair in zip(joined["images"], rows[0]["images"], strict=True))


def test_the_loss_is_taken_where_labels_are(rows: list[dict]) -> None:
    places = supervised(rows[0])
    assert len(places) == int((rows[0]["labels"] != -100).sum())
    starts = rows[0]["cu_seq_lens_q"][:-1]
    assert not set((places + 1).tolist()) & set(starts.tolist())


def test_the_packing_gate_passes_and_leaves_the_model_alone(
    model: torch.nn.Module, rows: list[dict]
) -> None:
    before = gates.parameter_digests(model, family)
    report = gates.packing_parity(model, family, split(rows[0], family)[:3])
    assert report["passed"] and report["max_difference"] < 1e-5
    assert gates.parameter_digests(model, family) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def _as_one_sample(row: dict) -> dict:
    total = row["input_ids"].shape[-1]
    bounds = torch.tensor([0, total], dtype=torch.int32)
    return {**row, "cu_seq_lens_q": bounds, "max_length_q": total}


def _positions_go_on(row: dict) -> dict:
    return {**row, "position_ids": torch.arange(row["input_ids"].shape[-1]).expand(4, 1, -1)}


@pytest.mark.parametrize("broken", [_as_one_sample, _positions_go_on])
def test_the_packing_gate_fails_when_samples_are_not_apart(
    model: torch.nn.Module, rows: list[dict], broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "join", lambda samples: broken(join(samples)))
    with pytest.raises(GateError, match=r"packing parity: the (loss|gradient) of"):
        gates.packing_parity(model, family, split(rows[0], family)[:3])


def test_the_packing_gate_probes_the_first_blocks_only(tmp_path: Path, rows: list[dict]) -> None:
    deep = tiny_models.build(tmp_path / "deep", text_config={"num_hidden_layers": 4})
    model = family.load_model(deep, torch.float32, "cpu")
    blocks = []
    for layer in model.model.language_model.layers:
        layer.register_forward_hook(lambda *_: blocks.append(1))
    gates.packing_parity(model, family, split(rows[0], family)[:2])
    assert len(model.model.language_model.layers) == 4
    assert len(blocks) == gates.LAYERS * 3  # two samples alone, one pack


def test_the_freeze_audit_sees_a_nudge(model: torch.nn.Module) -> None:
    tune = {"llm": FULL, "projector": FROZEN, "vision": FROZEN}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(family.module_of(name) == "llm")
    before = gates.parameter_digests(model, family)
    llm = model.model.language_model.norm.weight
    vision = model.model.visual.blocks[1].norm1.bias

    def audit() -> dict:
        return gates.freeze_audit(before, gates.parameter_digests(model, family), tune)

    with pytest.raises(GateError, match="no parameter of llm moved"):
        audit()
    with torch.no_grad():
        llm[0] += 1e-3
        assert audit()["moved"] == {"llm": True, "projector": False, "vision": False}
        vision[0] += 1e-6
        with pytest.raises(GateError, match="frozen parameters of vision moved"):
            audit()
        vision[0] -= vision[0]
        llm[0] = 1.0
    model.requires_grad_(True)


def test_a_stage_trains_and_says_what_it_did(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh.hardware.write_text("micro_batch: 4\ngradient_checkpointing: true\n")
    train_stage.main(fresh.training(schedule={"name": "constant", "warmup": 0}))
    said = capsys.readouterr().out
    assert "12 steps of 6 samples" in said
    assert "1 rank(s) x 1 forward(s) x" in said
    assert "llm: full" in said and "step 12/12" in said
    result = read_json(fresh.stage / "result.json")
    assert result["kind"] == "full" and result["steps"] == 12
    assert result["final_loss"] < 0.5 * result["first_loss"]
    assert result["trainable_parameters"] == result["parameters"] > 100_000
    assert result["gates"]["freeze_audit"]["moved"] == dict.fromkeys(TUNE, True)
    final = outcome.final_folder(fresh.stage / "result.json", result)
    assert (final / "model.safetensors").is_file()
    config = read_json(final / "config.json")
    assert config.get("use_cache", True) and config["text_config"]["use_cache"]
    family.load_model(final, torch.float32, "cpu")
    metrics = next(read_journal(fresh.work))["metrics"]
    assert {"loss", "grad_norm", "lr/llm", "lr/vision", "tokens_per_second", "samples"} <= set(
        metrics
    )
    assert metrics["samples"] == 6 and metrics["lr/llm"] == 2e-3
    run = read_json(fresh.work / "run.json")
    assert run["key"] == fresh.work.name and run["plan"]["steps"] == 12


def test_accumulation_changes_nothing_but_rounding(fresh: Project) -> None:
    curves = []
    for preset in ("micro_batch: 1\n", "micro_batch: 4\n"):
        shutil.rmtree(fresh.stage, ignore_errors=True)
        fresh.hardware.write_text(preset)
        train_stage.main(fresh.training())
        curves.append([float.fromhex(loss) for loss in fresh.losses()])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_divergence_is_an_error_and_no_result(fresh: Project) -> None:
    tune = {module: {**FULL, "lr": 1e30} for module in TUNE}
    with pytest.raises(GateError, match="training has diverged"):
        train_stage.main(fresh.training(tune=tune))
    assert not (fresh.stage / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"name": "cosine", "warmup": 12}}, r"schedule\.warmup: 12 .* 12 steps"),
        ({"method": "dpo"}, "method: 'dpo'"),
        ({"tune": {"llm": FROZEN, "projector": FROZEN, "vision": FROZEN}}, "nothing to train"),
    ],
)
def test_what_cannot_be_trained_is_refused(fresh: Project, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_stage.main(fresh.training(**changes))


def test_a_sample_that_cannot_be_read_ends_the_training_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Met by a loader process, after steps whose samples are whole."""
    project = tiny_project.build(tmp_path)
    project.hardware.write_text(project.hardware.read_text() + "workers: 1\n")
    last = read_plan(project.plan, project.parquet).steps - 1
    with damaged(project, last) as name, pytest.raises(DataError) as caught:
        train_stage.main(project.training())
    assert f"{name} cannot be read" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "step 1/6" in capsys.readouterr().out


def test_killed_and_stopped_training_repeats_the_uninterrupted_one(fresh: Project) -> None:
    train_stage.main(fresh.training(tune=TUNE))
    expected = fresh.losses(), (fresh.stage / "result.json").read_bytes()
    shutil.rmtree(fresh.stage)

    killed = start(fresh.training(tune=TUNE))
    wait_for_checkpoint(fresh, killed, 2)
    killed.kill()
    killed.communicate()
    assert not (fresh.stage / "result.json").exists()

    stopped = start(fresh.training(tune=TUNE))
    wait_for_checkpoint(fresh, stopped, 6)
    stopped.send_signal(signal.SIGTERM)
    said = stopped.communicate()[0]
    assert stopped.returncode == 75, said
    assert "resuming at step" in said and "stopped: SIGTERM: saved at step" in said

    train_stage.main(fresh.training(tune=TUNE))
    assert fresh.losses() == expected[0]
    assert (fresh.stage / "result.json").read_bytes() == expected[1]


def test_what_is_finished_is_used_and_what_was_changed_is_not(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fresh.training(tune=TUNE)
    train_stage.main(arguments)
    result = (fresh.stage / "result.json").read_bytes()
    (fresh.stage / "result.json").unlink()
    preset = fresh.hardware.read_text()
    fresh.hardware.write_text("ranks: 99\n")  # more than the plan has packs for
    capsys.readouterr()
    train_stage.main(arguments)
    assert "is finished" in capsys.readouterr().out
    assert (fresh.stage / "result.json").read_bytes() == result

    fresh.hardware.write_text(preset)
    (fresh.work / "final/adapter_model.safetensors").write_bytes(b"damaged")
    train_stage.main(arguments)
    assert "resuming at step 12 of 12" in capsys.readouterr().out
    assert (fresh.stage / "result.json").read_bytes() == result


@pytest.mark.slow
def test_two_ranks_train_as_one_does(fresh: Project) -> None:
    train_stage.main(fresh.training())
    alone = [float.fromhex(loss) for loss in fresh.losses()]
    shutil.rmtree(fresh.stage)
    fresh.hardware.write_text("device: cpu\nranks: 2\ncheckpoint_every: 2\n")
    stopped = start(fresh.training())
    wait_for_checkpoint(fresh, stopped, 2)
    stopped.send_signal(signal.SIGUSR1)
    said = stopped.communicate()[0]
    assert stopped.returncode == 75, said
    finished = start(fresh.training())
    said = finished.communicate()[0]
    assert finished.returncode == 0, said
    assert "2 rank(s) x" in said and "resuming at step" in said
    assert [float.fromhex(loss) for loss in fresh.losses()] == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_a_training_imports_no_deepspeed_and_no_tensorflow(fresh: Project) -> None:
    code = (
        "import sys, train_stage; train_stage.main(sys.argv[1:]); "
        "print([m for m in ('deepspeed', 'tensorflow', 'datasets', 'mlflow', 'bitsandbytes') "
        "if sys.modules.get(m)])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *fresh.training()],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines()[-1] == "[]"
    json.loads((fresh.stage / "result.json").read_bytes())
