"""SLURM clusters as fixtures: a test that asks for one runs in its environment."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .cluster import Cluster, foreign, missing

HINT = "no SLURM here: apt-get install slurm-wlm munge, or .ci/slurm"


@pytest.fixture(scope="session")
def need_slurm() -> None:
    """Skip where no cluster can run, or fail where one has to."""
    if why := missing():
        if os.environ.get("CARE_REQUIRE_SLURM") == "1":
            pytest.fail(f"{HINT} ({why})", pytrace=False)
        pytest.skip(f"{HINT} ({why})")


def _enter(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code in this process and its subprocesses see this cluster, and no other."""
    for name in foreign(dict(os.environ)):
        monkeypatch.delenv(name)
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def cluster(need_slurm: None) -> Iterator[Cluster]:
    """One node with two pretend GPUs, for all tests."""
    made = Cluster()
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def on_the_cluster(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A test with `cluster` runs in its environment, and leaves no job to the next."""
    if "cluster" not in request.fixturenames:
        yield
        return
    made: Cluster = request.getfixturevalue("cluster")
    _enter(made, monkeypatch)
    yield
    made.reset()


@pytest.fixture
def two_nodes(need_slurm: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes with two pretend GPUs each, for this test alone."""
    made = Cluster()
    made.start(nodes=2)
    _enter(made, monkeypatch)
    yield made
    made.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why, even in a quiet run: a skipped cluster must not look like a tested one."""
    skipped = [r for r in terminalreporter.getreports("skipped") if HINT in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} SLURM tests skipped: {skipped[0].longrepr[2]}")
