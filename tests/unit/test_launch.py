"""Several ranks on one machine: started together, stopped together, and requests to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from project_root import ROOT
from shardline.errors import Interrupted, UserError
from shardline.lease import lease
from shardline.training import launch, signals
from shardline.training.signals import StopRequest

PROGRAM = """
import os, signal, sys, time
rank, folder, how = os.environ["RANK"], sys.argv[1], sys.argv[2]
if how == "stop":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
os.fstat(int(sys.argv[3]))
facts = [os.environ[name] for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")]
with open(os.path.join(folder, rank), "w") as file:
    file.write(" ".join(facts))
if how == "fail" and rank == "1":
    sys.exit(3)
time.sleep({"end": 0}.get(how, 60))
"""


def _run(folder: Path, how: str) -> None:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    with lease(folder / "work" / "lease") as held:
        launch.run_ranks([str(program), str(folder), how, str(held)], 2, 2, held)


def test_ranks_know_each_other_and_hold_the_lease(tmp_path: Path) -> None:
    _run(tmp_path, "end")
    facts = [(tmp_path / rank).read_text().split() for rank in "01"]
    assert [fact[:3] for fact in facts] == [["2", "0", "127.0.0.1"], ["2", "1", "127.0.0.1"]]
    assert facts[0][3] == facts[1][3]


MEETING = """
import os, socket, sys
from shardline.training import launch
with socket.socket() as other:
    try:
        other.bind(("127.0.0.1", int(os.environ["MASTER_PORT"])))
    except OSError:
        taken = "held"
    else:
        taken = "free"
import torch
launch.join_ranks("gloo")
sum_ = torch.tensor([float(os.environ["RANK"]) + 1])
torch.distributed.all_reduce(sum_)
with open(os.path.join(sys.argv[1], os.environ["RANK"]), "w") as file:
    file.write(f"{taken} {sum_.item():g} {launch.started_here()}")
torch.distributed.destroy_process_group()
"""


def test_ranks_meet_at_a_port_that_nobody_else_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held from before the ranks start, until rank 0 itself listens at it."""
    program = tmp_path / "program.py"
    program.write_text(MEETING)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "scripts"))
    with lease(tmp_path / "work" / "lease") as held:
        launch.run_ranks([str(program), str(tmp_path)], 2, 2, held)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["held 3 True"] * 2


def test_ranks_of_another_launcher_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.delenv(launch.STORE, raising=False)
    assert launch.in_rank() and launch.own_rank() == (3, 8) and not launch.started_here()


def test_one_failed_rank_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE", 0.2)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"rank 1 of 2 failed first \(exit status 3\)"):
        _run(tmp_path, "fail")
    assert time.monotonic() - started < 30


def test_a_request_to_stop_reaches_all_ranks(tmp_path: Path) -> None:
    def ask() -> None:
        while not all((tmp_path / rank).is_file() for rank in "01"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Interrupted, match="run again to continue"):
        _run(tmp_path, "stop")
    asking.join()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_request_is_noted_and_its_echo_ignored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop() == ""
        signal.raise_signal(number)
        assert stop() == number.name
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_a_later_request_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO", -1.0)
    # A shell starts what it runs in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
