"""Lets the tests of this directory import `real_cluster`, and shows what the nodes logged when a test fails."""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from real_cluster import RealCluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The ends of the logs of a failed test's nodes become part of its report."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, RealCluster):
                report.sections += [(f"log of {n}", value.log(n)[-6_000:]) for n in value.node_ids]
    return report
