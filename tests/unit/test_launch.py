"""Several ranks on one machine: started together, stopped together, and requests to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

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
