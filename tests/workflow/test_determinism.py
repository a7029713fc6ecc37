"""The same inputs give the same bytes, whatever the number of cores."""

from __future__ import annotations

import pytest

from workflow.workspace import Workspace, assert_same_artefacts


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_core_and_two_give_the_same_bytes(finished, tmp_path):
    """From the drawn screens to the scores; `finished` was built on two cores."""
    alone = Workspace.create(tmp_path / "project")
    alone.snakemake("--cores", "1", "all")
    assert_same_artefacts(alone, finished)
