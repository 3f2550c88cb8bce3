"""Whether the suite and the core are still what they were: a part under test runs in their process.

It finds what replaces a function, a method, a constant or an entry of a table and stays; what wants to deceive can
put it back. Knows nothing about parts and checks.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, MappingProxyType, ModuleType

import attrs

__all__ = ["Survey"]

PACKAGES = ("mqcore", "mqcore_conformance")
_BUILTINS = frozenset(name for name in vars(builtins) if not name.startswith("__"))

_Names = Mapping[str, object]


@attrs.frozen
class Survey:
    """What each name of each module, class and constant table stood for: its live names beside those of then.

    Values are kept, so that none can be taken for another. ``codes``: the code of each function.
    """

    places: Mapping[str, tuple[_Names, _Names]]
    codes: Mapping[FunctionType, object]

    @classmethod
    def take(cls) -> Survey:
        """Look at every module that is loaded."""
        places: dict[str, tuple[_Names, _Names]] = {}
        codes: dict[FunctionType, object] = {}
        for name, live in _all_places():
            then = dict(live)
            places[name] = live, then
            codes.update({value: value.__code__ for value in then.values() if type(value) is FunctionType})
        return cls(places, codes)

    def first_change(self) -> str:
        """Return the name of something that is not what it was, or nothing."""
        for name, (live, then) in self.places.items():
            is_table = name.rpartition(".")[2].isupper()
            for key, value in then.items():
                if live.get(key, self) is not value and (is_table or _is_fixed(key, value)):
                    return f"{name}.{key}"
            shadows = _BUILTINS.intersection(live).difference(then) if len(live) != len(then) else ()
            for key in shadows:
                return f"{name}.{key}"
        for function, code in self.codes.items():
            if function.__code__ is not code:
                return f"{function.__module__}.{function.__qualname__}"
        return ""


def _all_places() -> Iterator[tuple[str, _Names]]:
    """Give every module, class and constant table by name, with what it holds now and from now on."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES and isinstance(module, ModuleType):
            yield name, vars(module)
            for key, value in list(vars(module).items()):
                if isinstance(value, type) and value.__module__ == name:
                    yield f"{name}.{key}", vars(value)
                elif key.isupper() and isinstance(value, dict | MappingProxyType):
                    yield f"{name}.{key}", value


def _is_fixed(key: str, value: object) -> bool:
    """Whether a name keeps what it stands for: it is no counter and no object of a run."""
    return key.isupper() or callable(value) or isinstance(value, ModuleType | property | staticmethod | classmethod)
