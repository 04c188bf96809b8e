"""For all tests: the process's logging is as it was before."""

import logging
from collections.abc import Iterator

import pytest

from raftstore.ownership import IS_COMPILED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What patches a class or an object of one cannot run where these are compiled."""
    if IS_COMPILED:
        for item in items:
            if item.get_closest_marker("plain"):
                item.add_marker(pytest.mark.skip(reason="compiled classes cannot be patched"))


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """A test that configures logging, as the command line does, leaves it as it was for the next one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if root.handlers != handlers or root.level != level:
        root.handlers[:] = handlers
        root.setLevel(level)
