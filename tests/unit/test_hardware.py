"""Hardware presets: strict reading, and what a preset cannot realise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shardline.errors import ConfigError
from shardline.hardware import Hardware, check_devices, forwards, load_hardware

PRESETS = Path(__file__).resolve().parents[2] / "config/hardware"


def _write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_presets_of_the_project_are_read(path: Path) -> None:
    assert load_hardware(path).name == path.stem


def test_a_preset_is_named_by_its_file_and_has_defaults(tmp_path: Path) -> None:
    preset = load_hardware(_write(tmp_path, "device: cuda\nranks: 4\n"))
    assert (preset.name, preset.device, preset.ranks, preset.micro_batch) == ("mine", "cuda", 4, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rank: 4", ["rank", "ranks"]),
        ("device: tpu", ["device", "'tpu'", "cpu, cuda"]),
        ("ranks: 0", ["ranks", "0", "at least 1"]),
        ("ranks: two", ["ranks", "'two'", "whole number"]),
        ("ranks: true", ["ranks", "whole number"]),
        ("keep_checkpoints: 0", ["keep_checkpoints", "0", "at least 1, or all"]),
        ("keep_checkpoints: best", ["keep_checkpoints", "'best'", "at least 1, or all"]),
        ("gradient_checkpointing: 1", ["gradient_checkpointing", "True"]),
        ("deepspeed: 3", ["deepspeed", "null"]),
        ("- a", ["mapping"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_a_wrong_value_names_file_key_and_what_is_allowed(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        load_hardware(_write(tmp_path, text))
    for word in ["mine.yaml", *words]:
        assert word in str(error.value)


def test_a_missing_preset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such hardware preset"):
        load_hardware(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("ranks", "micro_batch", "packs", "expected"),
    [
        (1, 1, 5, (5, 1)),
        (1, 8, 5, (1, 5)),
        (2, 2, 8, (2, 2)),
        (2, 4, 10, (2, 3)),
        (8, 1, 8, (1, 1)),
    ],
)
def test_forwards_hold_every_pack(
    ranks: int, micro_batch: int, packs: int, expected: tuple[int, int]
) -> None:
    preset = Hardware(name="x", ranks=ranks, micro_batch=micro_batch)
    count, at_once = forwards(preset, packs, "plans/a.json")
    assert (count, at_once) == expected
    assert at_once <= micro_batch
    assert count * at_once * ranks >= packs


def test_more_ranks_than_packs_names_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"'x' has 8 ranks.*plans/a\.json has 3 pack"):
        forwards(Hardware(name="x", ranks=8), 3, "plans/a.json")


def test_a_preset_that_this_machine_cannot_realise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The GPUs are pretended; what is said of them is not."""
    cuda, cpu = Hardware(name="x", device="cuda", ranks=4), Hardware(name="x", ranks=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"'x': device: cuda, but torch sees no GPU .* device: c"):
        check_devices(cuda, 4, "bf16")
    with pytest.raises(ConfigError, match=r"'x': ranks: 2, but 3 were started"):
        check_devices(cpu, 3, "fp32")
    check_devices(cpu, 2, "bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match=r"ranks: 4 on this machine, .* 2 GPU.* at most 2"):
        check_devices(cuda, 4, "bf16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(ConfigError, match=r"Tesla T4 has no bf16.*precision: fp32"):
        check_devices(cuda, 4, "bf16")
    check_devices(cuda, 4, "fp32")
