"""How a defect is put into the code under test, and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

Mutant = Callable[[], AbstractContextManager[None]]


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is something else for a while."""
    had = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def replaced(table: dict[Any, Any], key: Any, value: Any) -> Iterator[None]:
    """`table[key]` is something else for a while."""
    before = table[key]
    table[key] = value
    try:
        yield
    finally:
        table[key] = before


def attribute(owner: Any, name: str, make: Callable[[Any], Any]) -> Mutant:
    """A mutant that puts `make(the original)` in the place of an attribute, wherever it is inherited from."""
    return lambda: patched(owner, name, make(getattr(owner, name)))


def several(*mutants: Mutant) -> Mutant:
    """All of them at once."""

    @contextmanager
    def together() -> Iterator[None]:
        with ExitStack() as stack:
            for mutant in mutants:
                stack.enter_context(mutant())
            yield

    return together
