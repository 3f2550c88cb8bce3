"""Rules: a deny wins, what no rule allows is denied, and each operation of a broker needs one."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.abc import OPERATIONS, AccessRule, Operation
from mqcore.broker.operations import HANDLERS, NEEDS
from mqcore.config import make_config
from mqcore.errors import ConfigurationError
from mqcore.registry import create_authorizer


def rule(principal: str, resource: str, *operations: str, effect: str = "allow") -> AccessRule:
    return AccessRule(principal=principal, resource=resource, operations=operations, effect=effect)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("principal", "operation", "resource", "allowed"),
    [
        ("user:a", "produce", "topic:orders-1", True),
        ("user:a", "produce", "topic:orders-", True),
        ("user:a", "produce", "topic:orders", False),
        ("user:a", "consume", "topic:orders-1", False),
        ("user:a", "describe", "topic:orders-1", True),
        ("user:a", "describe", "topic:other", False),
        ("user:a", "produce", "topic:orders-secret", False),
        ("user:a", "describe", "topic:orders-secret", False),
        ("user:b", "produce", "topic:orders-1", False),
        ("user:ab", "produce", "topic:orders-1", False),
        ("user:a\n", "produce", "topic:orders-1", False),
        ("tls:CN=n1,O=x", "replicate", "cluster", True),
        ("tls:CN=n1,O=x", "manage", "cluster", False),
    ],
)
def test_rules(principal: str, operation: Operation, resource: str, allowed: bool) -> None:
    rules = (
        rule("user:a", "topic:orders-*", "produce"),
        rule("*", "topic:orders-secret", "*", effect="deny"),
        rule("tls:CN=n*", "cluster", "replicate"),
    )
    decision = create_authorizer("rules", rules).decide(principal, operation, resource)
    assert decision.is_allowed is allowed
    assert decision.rule.startswith(("rule ", "no rule"))


def test_a_dot_or_a_bracket_in_a_pattern_is_itself() -> None:
    authorizer = create_authorizer("rules", (rule("user:a.b", "topic:x[1]", "*"),))
    assert authorizer.decide("user:a.b", "produce", "topic:x[1]").is_allowed
    assert not authorizer.decide("user:aXb", "produce", "topic:x[1]").is_allowed
    assert not authorizer.decide("user:a.b", "produce", "topic:x1").is_allowed


def test_a_deny_wins_wherever_it_stands() -> None:
    allow, deny = rule("*", "*", "*"), rule("user:a", "*", "delete", effect="deny")
    for rules in ((allow, deny), (deny, allow)):
        authorizer = create_authorizer("rules", rules)
        assert not authorizer.decide("user:a", "delete", "topic:t").is_allowed
        assert authorizer.decide("user:a", "alter", "topic:t").is_allowed


def test_every_operation_of_a_broker_needs_something_that_rules_can_name() -> None:
    assert NEEDS.keys() == HANDLERS.keys()
    assert {need[0] for need in NEEDS.values() if need is not None} <= set(OPERATIONS)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        ({"operations": ["fly"]}, "unknown operation fly"),
        ({"operations": []}, "unknown operation"),
        ({"resource": "topics:x"}, "unknown resource 'topics:x'"),
        ({"effect": "maybe"}, "maybe"),
        ({"principle": "x"}, "principle"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_its_place(spoil: dict[str, object], text: str) -> None:
    table = {"principal": "a", "resource": "*", "operations": ["*"], **spoil}
    with pytest.raises(ConfigurationError, match=r"access\.rules") as caught:
        make_config(storage="memory://", access={"rules": [table]})
    assert text in str(caught.value)


def test_what_operations_need_can_be_named_by_a_rule_of_its_own() -> None:
    for resource in ("topic:t", "group:billing", "group:b*", "cluster", "quarantine", "part:raid", "*"):
        assert rule("user:a", resource, "consume").resource == resource
    authorizer = create_authorizer("rules", (rule("user:a", "group:b*", "consume"),))
    assert authorizer.decide("user:a", "consume", "group:billing").is_allowed
    assert not authorizer.decide("user:a", "consume", "group:audit").is_allowed


@given(st.text("ab*", max_size=8), st.text("ab\n", max_size=10))
def test_a_star_stands_for_any_text_and_nothing_else_is_special(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None
    authorizer = create_authorizer("rules", (rule(pattern, "*", "delete"),))
    assert authorizer.decide(text, "delete", "topic:t").is_allowed == expected


def test_a_long_name_is_decided_on_in_a_time_that_grows_with_its_length_only() -> None:
    """Every way of sharing it out among the stars was tried: a peer without any rights stopped a broker for hours."""
    authorizer = create_authorizer("rules", (rule("*", "topic:*-*-*-*-*-prod", "consume"),))
    begun = time.perf_counter()
    assert not authorizer.decide("user:a", "describe", "topic:" + "-" * 1_000_000).is_allowed
    assert time.perf_counter() - begun < 5


def test_nodes_may_do_everything_that_no_rule_denies() -> None:
    deny = {"principal": "*", "resource": "topic:x", "operations": "delete", "effect": "deny"}
    config = make_config(storage="memory://", access={"nodes": ["user:n*"], "rules": [deny]})
    assert config.access is not None
    authorizer = create_authorizer("rules", config.access.all_rules)
    assert authorizer.decide("user:n1", "replicate", "cluster").is_allowed
    assert not authorizer.decide("user:n1", "delete", "topic:x").is_allowed
    assert not authorizer.decide("user:m", "replicate", "cluster").is_allowed
