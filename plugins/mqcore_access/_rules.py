"""``rules``: what the configuration's rules allow. A deny wins over every allow; what no rule allows is denied.

Whoever may do something to a topic may describe it, unless a rule denies that: what is used is looked up first.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from mqcore.abc import AccessContext, AccessRule, Authorizer, Decision, Operation
from mqcore_access._config import NoOptions

__all__ = ["RulesAuthorizer"]

_IMPLY_DESCRIBE = frozenset({"produce", "consume", "create", "alter", "delete"})


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", text)), re.DOTALL)


class RulesAuthorizer(Authorizer):
    """Decides by the rules, which never change while the broker runs."""

    options_class: ClassVar[type[NoOptions]] = NoOptions

    def __init__(self, name: str, options: Any, rules: tuple[AccessRule, ...], context: AccessContext) -> None:
        super().__init__(name, options, rules, context)
        self._rules = [
            (f"rule {number} ({rule.words})", rule, _pattern(rule.principal), _pattern(rule.resource))
            for number, rule in enumerate(rules, 1)
        ]

    def decide(self, principal: str, operation: Operation, resource: str) -> Decision:
        """Return the first rule that denies, else the first that allows, else that there is none."""
        allowed: Decision | None = None
        for words, rule, principals, resources in self._rules:
            if not (principals.fullmatch(principal) and resources.fullmatch(resource)):
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
