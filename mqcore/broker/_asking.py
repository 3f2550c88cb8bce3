"""What a node asks all other nodes of its set at the same time: what each answered, or why it gave no answer.

Why counts: a node that refuses, or that is another one than was meant, is not one that is away, and another remedy
helps. Must not know what is asked, nor what is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import trio

from mqcore.abc import Notice
from mqcore.broker._peers import NodeCaller
from mqcore.config import NodeTable
from mqcore.errors import MqcoreError, NotReachedError, TransportError
from mqcore.operations import from_result

__all__ = ["Asked", "SetAsker"]


class Named(Protocol):
    """An answer that says which node gave it."""

    @property
    def name(self) -> str:
        """Name of the node."""
        ...


R = TypeVar("R", bound=Named)


@attrs.frozen
class Asked(Generic[R]):
    """``answers`` by the name of the node; ``silent``: of every other node that was asked why not, in a sentence."""

    answers: Mapping[str, R]
    silent: Mapping[str, str]


class SetAsker:
    """Asks ``others``, the other configured nodes of a set; each has ``timeout_s``. ``report`` takes what is news."""

    def __init__(
        self, others: Sequence[NodeTable], peers: NodeCaller, timeout_s: float, report: Callable[[Notice], None]
    ) -> None:
        self._others = others
        self._peers = peers
        self._timeout_s = timeout_s
        self._report = report
        self._told: dict[str, str] = {}

    async def ask(self, operation: str, kind: type[R]) -> Asked[R]:
        """Ask every node; an answer is a ``kind``. Raises nothing. If cancelled, they may have been asked."""
        answers: dict[str, R] = {}
        values, silent = await self._ask(operation, {})
        for node in self._others:
            if node.name not in values:
                continue
            try:
                answer = from_result(kind, values[node.name])
            except ValueError as error:
                silent[node.name] = f"{node.name} answered what is not understood: {error}"
                self._tell("peer-not-understood", node.name, silent[node.name])
                continue
            if answer.name != node.name:
                silent[node.name] = (
                    f"at {node.urls[0]}, where {node.name} is to be, a node answers that is called {answer.name!r}: "
                    "mend the urls, or the name of that node"
                )
                self._tell("peer-is-another", node.name, silent[node.name])
                continue
            answers[node.name] = answer
            self._told.pop(node.name, None)
        return Asked(answers, silent)

    async def ask_all(self, operation: str, arguments: Mapping[str, Any]) -> Asked[Any]:
        """Ask every node; an answer is a JSON value. Otherwise as ``ask``."""
        answers, silent = await self._ask(operation, arguments)
        for name in answers:
            self._told.pop(name, None)
        return Asked(answers, silent)

    async def _ask(self, operation: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        answers: dict[str, Any] = {}
        silent: dict[str, str] = {}

        async def ask(node: NodeTable) -> None:
            try:
                answers[node.name] = await self._peers.call(node.urls, operation, arguments, timeout_s=self._timeout_s)
            except (NotReachedError, TransportError) as error:
                silent[node.name] = f"no answer from {node.name} ({error})"
                self._tell("peer-not-reached", node.name, f"{node.name}: {error}")
            except MqcoreError as error:
                silent[node.name] = f"{node.name} refused: {error}"
                self._tell("peer-refuses", node.name, silent[node.name])

        async with trio.open_nursery() as nursery:
            for node in self._others:
                nursery.start_soon(ask, node)
        return answers, silent

    def _tell(self, kind: str, name: str, text: str) -> None:
        # Asked again and again it is no news; but one that refuses after it was away is.
        if self._told.get(name) != kind:
            self._told[name] = kind
            self._report(Notice(kind, text))
