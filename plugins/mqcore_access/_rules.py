"""``rules``: what the configuration's rules allow. A deny wins over every allow; what no rule allows is denied.

Whoever may do something to a topic may describe it, unless a rule denies that: what is used is looked up first.
"""

from __future__ import annotations

from typing import Any, ClassVar

from mqcore.abc import AccessContext, AccessRule, Authorizer, Decision, Operation
from mqcore_access._config import NoOptions

__all__ = ["RulesAuthorizer"]

_IMPLY_DESCRIBE = frozenset({"produce", "consume", "create", "alter", "delete"})


class _Pattern:
    """Text in which ``*`` stands for any text. Not a regular expression: those try every way of sharing a text out
    among two of them, and a peer that names something long would hold up the whole broker.
    """

    def __init__(self, text: str) -> None:
        self._first, *self._further = text.split("*")

    def matches(self, text: str) -> bool:
        """Whether ``text`` is one that the pattern stands for; in a time that grows with its length only."""
        if not self._further:
            return text == self._first
        *middle, last = self._further
        at, end = len(self._first), len(text) - len(last)
        if at > end or not (text.startswith(self._first) and text.endswith(last)):
            return False
        for part in middle:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True


class RulesAuthorizer(Authorizer):
    """Decides by the rules, which never change while the broker runs."""

    options_class: ClassVar[type[NoOptions]] = NoOptions

    def __init__(self, name: str, options: Any, rules: tuple[AccessRule, ...], context: AccessContext) -> None:
        super().__init__(name, options, rules, context)
        self._rules = [
            (f"rule {number} ({rule.words})", rule, _Pattern(rule.principal), _Pattern(rule.resource))
            for number, rule in enumerate(rules, 1)
        ]

    def decide(self, principal: str, operation: Operation, resource: str) -> Decision:
        """Return the first rule that denies, else the first that allows, else that there is none."""
        allowed: Decision | None = None
        for words, rule, principals, resources in self._rules:
            if not (principals.matches(principal) and resources.matches(resource)):
                continue
            named = "*" in rule.operations or operation in rule.operations
            if rule.effect == "deny":
                if named:
                    return Decision(False, words)
            elif allowed is None and (
                named or (operation == "describe" and not _IMPLY_DESCRIBE.isdisjoint(rule.operations))
            ):
                allowed = Decision(True, words)
        return allowed or Decision(False, "no rule allows it")
