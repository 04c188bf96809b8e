"""Lets the tests of this directory import `real_cluster`, and shows what the nodes logged when a test fails."""

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from real_cluster import RealCluster


@pytest.fixture(scope="module")
def shared() -> Iterator[RealCluster]:
    """Three nodes for the tests of one file."""
    with RealCluster() as real:
        yield real


@pytest.fixture
def cluster(shared: RealCluster) -> RealCluster:
    """All of it up and serving, whatever a test before may have left."""
    shared.heal()
    return shared


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The ends of the logs of a failed test's nodes become part of its report."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, RealCluster):
                report.sections += [(f"log of {n}", value.log(n)[-6_000:]) for n in value.node_ids]
    return report
