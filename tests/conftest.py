"""Fixtures shared by all tests: the real data, if it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from project_root import ROOT

# Test processes run beside one another; torch's threads would wait for each other, spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says only what else the machine does.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

_DATA = Path(os.environ.get("SHARDLINE_TEST_DATA", ROOT.parent / "shared" / "data"))
_skipped: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the workflow's tests, the longest, so that test processes end together."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture
def shared_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    if _DATA.is_dir():
        return _DATA
    if os.environ.get("SHARDLINE_REQUIRE_DATA") == "1":
        pytest.fail(f"SHARDLINE_REQUIRE_DATA=1, but there is no {_DATA}")
    _skipped.append(request.node.nodeid)
    pytest.skip("no real data (SHARDLINE_TEST_DATA)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests were skipped for want of the real data."""
    if _skipped:
        terminalreporter.write_line(
            f"{len(_skipped)} tests skipped: no real data (set SHARDLINE_TEST_DATA to its folder)"
        )
