"""Saboteurs that a contract check of a part alone sees, not a run: what they are, and those of what is refused.

Knows private names of ``mqcore.registry`` and ``mqcore.broker``; see ``_replacing`` for what happens when one is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from mqcore_conformance.saboteurs._model import MMAP, bug_of
from mqcore_conformance.saboteurs._replacing import in_place_of
from mqcore_conformance.worlds.model import Sabotage


@attrs.frozen(kw_only=True)
class ContractSaboteur:
    """One bug: the contract check ``check`` of the part at ``url`` turns ``clause`` red, ``green`` still passes."""

    name: str
    make: Callable[[], Sabotage]
    clause: str
    check: str
    green: str
    url: str = MMAP

    @property
    def bug(self) -> str:
        """What is planted, in words."""
        return bug_of(self.make)


@in_place_of(("mqcore.registry._compose", "", "merge_options"))
def unknown_options_dropped(original: Any) -> Any:
    """An option that nobody knows is dropped without a word."""

    def merge(cls: Any, sources: Any) -> Any:
        known = {field.name for field in attrs.fields(cls)}
        kept = [(where, {key: given[key] for key in given if key in known}) for where, given in sources]
        return original(cls, kept)

    return merge


@in_place_of(("mqcore.broker._node", "", "check_build"))
def promises_unchecked(_: Any) -> Any:
    """A build starts whatever it promises."""
    return lambda *_: []


REFUSALS: tuple[ContractSaboteur, ...] = (
    ContractSaboteur(
        name="unknown-option-taken",
        make=unknown_options_dropped,
        clause="G18",
        check="an_unknown_option_is_refused_by_name",
        green="composing_does_no_io",
    ),
    ContractSaboteur(
        name="promise-unchecked",
        make=promises_unchecked,
        clause="G18",
        check="a_build_that_cannot_keep_its_promise_is_refused",
        green="an_unknown_option_is_refused_by_name",
    ),
)
"""Saboteurs of refusals."""
