"""Gives every test of this directory the two drivers, on a virtual clock that is put away afterwards."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "raft"))

from harness import Ours, Stock, virtual_stock_time


@pytest.fixture(autouse=True)
def stock_time():
    """The stock library's clock and chance, replaced for one test."""
    with virtual_stock_time() as clock:
        yield clock


@pytest.fixture
def stock(stock_time, tmp_path):
    """Builds clusters of the stock class: `stock("ABC", batch_bytes=200)`."""
    built = []

    def build(ids="ABC", **options):
        built.append(Stock(ids, stock_time, tmp_path, **options))
        return built[-1]

    yield build
    for driver in built:
        driver.close()


@pytest.fixture
def ours():
    """Builds clusters of the hardened class, with the same arguments."""
    return Ours
