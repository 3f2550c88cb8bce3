"""Replaces a name of the code under test while a block lasts: how most saboteurs get into it.

A name that is gone is a ``LookupError`` of the selftest, not a saboteur that silently does nothing.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from mqcore_conformance.worlds.model import Sabotage

Replacement = tuple[str, str, str, Callable[[Any], Any]]
"""Module, class in it (empty: none), name, and what makes the new value from the old one."""


@contextlib.contextmanager
def replaced(module: str, owner: str, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace ``module.owner.name`` (``owner`` empty: a name of the module) by ``make(original)``."""
    target: Any = importlib.import_module(module)
    if owner:
        target = getattr(target, owner)
    original = target.__dict__.get(name)
    if original is None:
        raise LookupError(f"{module}.{owner}.{name} is gone: give the saboteur its new name")
    setattr(target, name, make(original))
    try:
        yield
    finally:
        setattr(target, name, original)


class _Replacing(Sabotage):
    def __init__(self, make: Callable[[], tuple[Replacement, ...]]) -> None:
        self._make = make

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for replacement in self._make():
                stack.enter_context(replaced(*replacement))
            yield


def replacing(make: Callable[[], tuple[Replacement, ...]]) -> Callable[[], Sabotage]:
    """Decorator: a function that returns replacements, called for each run, becomes what makes the sabotage."""

    def sabotage() -> Sabotage:
        return _Replacing(make)

    sabotage.__doc__ = make.__doc__
    sabotage.__name__ = sabotage.__qualname__ = make.__name__
    return sabotage


def in_place_of(*places: tuple[str, str, str]) -> Callable[[Callable[[Any], Any]], Callable[[], Sabotage]]:
    """Decorator: what makes the new value from the old one, at each of ``places``, becomes what makes the sabotage."""

    def decorate(make: Callable[[Any], Any]) -> Callable[[], Sabotage]:
        def replacements() -> tuple[Replacement, ...]:
            return tuple((*place, make) for place in places)

        replacements.__doc__, replacements.__name__ = make.__doc__, make.__name__
        return replacing(replacements)

    return decorate
