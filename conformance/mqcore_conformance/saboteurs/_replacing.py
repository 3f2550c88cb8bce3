"""Replaces a name of the code under test while a block lasts: how most saboteurs get into it.

A name that is gone, or takes other arguments now, is a ``LookupError`` of the selftest, not a saboteur that silently
does nothing, or fails in another way than it is to.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
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
    new = make(original)
    if inspect.isfunction(original) and inspect.isfunction(new) and not _takes_as_much(new, original):
        raise LookupError(f"{module}.{owner}.{name} takes {inspect.signature(original)} now, the saboteur does not")
    setattr(target, name, new)
    try:
        yield
    finally:
        setattr(target, name, original)


def _takes_as_much(new: Callable[..., Any], original: Callable[..., Any]) -> bool:
    """Whether every call that ``original`` takes by position, or by what it takes by name only, is one for ``new``."""
    theirs = inspect.signature(original).parameters.values()
    by_position = [each for each in theirs if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    by_name = [each.name for each in theirs if each.kind is each.KEYWORD_ONLY]
    try:
        inspect.signature(new).bind(*by_position, **dict.fromkeys(by_name))
    except TypeError:
        return False
    return True


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
