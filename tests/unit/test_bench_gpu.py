"""The benchmark of training steps, each of its rows, with a tiny model on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from project_root import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import gpu

OPTIONS = {
    **{"size": "tiny", "device": "cpu", "samples": 16, "steps": 5, "packed-steps": 4},
    **{"stock-steps": 4, "warm": 2, "max-length": 2048, "workers": 1, "seconds": 3600},
}


@pytest.mark.slow
def test_every_row_runs_and_has_the_loss_of_the_stock_model(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    options = [part for key, value in OPTIONS.items() for part in (f"--{key}", str(value))]
    done = subprocess.run(
        [sys.executable, "bench/gpu.py", *options, "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_bytes())
    assert not [key for key in found if key.endswith(".error")], done.stdout
    for row in ("packed", "compiled", "cached"):
        assert found[f"{row}.nan"] == 0
        assert found[f"{row}.loss_difference"] < 1e-4
        assert found[f"{row}.ratio"] > 0
        assert 0 <= found[f"{row}.data_wait_share"] < 1
        assert f"{row} " in done.stdout
    assert found["compiled.late_graphs"] == found["cached.late_graphs"] == 0
    # The tower's work is not done again, and both count the same samples.
    assert found["cached.gigaflops_per_token"] < found["compiled.gigaflops_per_token"]
    assert found["features.gigabytes_per_1000_samples"] > 0


def test_a_row_that_fails_is_listed_and_takes_no_other_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = {
        **{"tokens": 1000, "samples": 2, "seconds": 2.0, "flops": 4e14, "nan": 0, "steps": 5},
        **{"peak_gigabytes": 1.0},
    }
    found = {
        "device": {"name": "NVIDIA H200", "product": 800e12},
        "seed": measured,
        "compiled": {"error": "CUDA out of memory"},
        "packed": {**measured, "seconds": 0.5, "first_loss": 2.02},
        "reference": {"first_loss_5": 2.0},
    }
    rows = gpu.derived(found)
    assert rows["packed"]["ratio"] == 4
    assert rows["packed"]["mfu"] == pytest.approx(8e14 / 989e12)
    assert rows["seed"]["mfu_of_product"] == pytest.approx(0.25)
    assert rows["packed"]["loss_difference"] == pytest.approx(0.01)
    assert gpu.flat(rows)["seed.tokens_per_second"] == 500
    gpu.show(rows)
    shown = capsys.readouterr().out
    assert "failed: CUDA out of memory" in shown
    assert "4.00" in shown
