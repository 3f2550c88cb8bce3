"""Filters: picked by name, refused by name, and what the built-in ones match."""

from __future__ import annotations

import pytest

from mqcore.client import Message
from mqcore.errors import ConfigurationError, PluginNotFoundError
from mqcore.registry import check, create_filter


def message(key: bytes | None = None, *headers: tuple[str, bytes]) -> Message:
    return Message("t", 0, 0, 1, b"value", key, headers, 5)


RED, BLUE = ("colour", b"red"), ("colour", "bläu".encode())


@pytest.mark.parametrize(
    ("text", "given", "matches"),
    [
        ("header:colour=red", message(None, RED), True),
        ("header:colour=red|bläu", message(None, BLUE), True),
        ("header:colour=red", message(None, BLUE), False),
        ("header:colour=red", message(None, BLUE, RED), True),
        ("header:colour=red", message(None), False),
        ("header:colour=", message(None, ("colour", b"")), True),
        ("header:colour", message(None, BLUE), True),
        ("header:Colour", message(None, BLUE), False),
        ("key:order-", message(b"order-17"), True),
        ("key:order-", message(b"orde"), False),
        ("key:order-", message(None), False),
    ],
)
def test_the_filters_that_come_with_mqcore_match_as_their_pages_say(text: str, given: Message, matches: bool) -> None:
    assert create_filter(text).matches(given) is matches


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("red", "write NAME:EXPRESSION"),
        ("header:", "write header:NAME=VALUE"),
        ("header:=x", "write header:NAME=VALUE"),
        ("key:", "write key:PREFIX"),
    ],
)
def test_an_expression_that_cannot_be_is_refused_with_what_can(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        create_filter(text)


def test_an_unknown_filter_is_refused_by_name_with_those_that_are_installed() -> None:
    with pytest.raises(
        PluginNotFoundError, match=r"no filter is called 'headr' \(did you mean 'header'\?\); installed: .*key"
    ):
        create_filter("headr:a=b")


def test_a_filter_is_checked_like_any_part() -> None:
    assert check("filters", "header").problem == ""
