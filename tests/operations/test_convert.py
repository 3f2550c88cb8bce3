"""Requests and results of operations: what a peer sent is structured or refused with the argument's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mqcore.operations import (
    AlterTopic,
    CreateTopic,
    DescribeTopic,
    FoundOffset,
    ListTopics,
    LookUpOffset,
    PartitionState,
    TopicDescription,
    TopicSummary,
    from_arguments,
    from_result,
    to_arguments,
    to_json,
)

FACTS = PartitionState(
    partition=3,
    start_offset=0,
    committed_offset=5,
    durable_offset=4,
    end_offset=6,
    bytes=100,
    epoch=2,
    failure=None,
    damaged=((1, 2),),
)
SUMMARY = TopicSummary(name="a", id="b", partitions=1)
DESCRIPTION = TopicDescription(name="lines", id="ab", partitions=4, config={"flush": "sync"}, logs=(FACTS,))


@pytest.mark.parametrize(
    ("cls", "arguments", "says"),
    [
        (CreateTopic, {}, "argument 'name' is missing"),
        (CreateTopic, {"name": 5}, "argument 'name' must be str, not 5"),
        (CreateTopic, {"name": "a", "partitions": True}, "argument 'partitions' must be int, not True"),
        (CreateTopic, {"name": "a", "partitions": "3"}, "argument 'partitions' must be int, not '3'"),
        (CreateTopic, {"name": "a", "config": []}, "argument 'config' must be dict, not []"),
        (AlterTopic, {"name": "a", "partitons": 3}, "unknown argument 'partitons'; known: name, partitions, config"),
        (ListTopics, {"limit": 0}, "argument 'limit' must be >= 1: 0"),
        (DescribeTopic, {"name": "a", "limit": 0}, "argument 'limit' must be >= 1: 0"),
        (
            LookUpOffset,
            {"topic": "a", "partition": 0, "at": 1.5},
            'argument \'at\' must be "start", "end" or a time in ms since 1970, not 1.5',
        ),
    ],
)
def test_g18_an_argument_that_is_missing_unknown_or_wrong_is_refused_by_name(
    cls: type[Any], arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError) as caught:
        from_arguments(cls, arguments)
    assert str(caught.value) == says


def test_what_is_left_out_has_its_default() -> None:
    assert from_arguments(CreateTopic, {"name": "a"}) == CreateTopic(name="a", partitions=1, config={})
    assert from_arguments(AlterTopic, {"name": "a"}).partitions is None
    for at in ("start", "end", 0, 1_700_000_000_000):
        assert from_arguments(LookUpOffset, {"topic": "a", "partition": 0, "at": at}).at == at


@pytest.mark.parametrize("value", [DESCRIPTION, FoundOffset(offset=7, epoch=2), SUMMARY])
def test_a_result_comes_back_from_its_json_and_keys_of_a_newer_broker_do_no_harm(value: Any) -> None:
    plain = json.loads(json.dumps(to_json(value)))
    assert from_result(type(value), plain) == value
    assert from_result(type(value), {**plain, "of_a_newer_broker": 1}) == value


def test_a_result_that_is_none_is_told_with_what_it_should_be() -> None:
    with pytest.raises(ValueError, match="not a FoundOffset: argument 'epoch' is missing"):
        from_result(FoundOffset, {"offset": 1})
    with pytest.raises(ValueError, match=r"not a list: argument '1.partitions' must be int, not 'x'"):
        from_result(list[TopicSummary], [to_json(SUMMARY), {**to_json(SUMMARY), "partitions": "x"}])
    for nothing in (None, 5, "text"):
        for cls in (FoundOffset, list[TopicSummary]):
            with pytest.raises(ValueError, match="not a "):
                from_result(cls, nothing)


def test_a_request_names_only_what_is_not_at_its_default_and_is_read_back() -> None:
    for request, arguments in (
        (CreateTopic(name="a"), {"name": "a"}),
        (CreateTopic(name="a", partitions=3), {"name": "a", "partitions": 3}),
        (AlterTopic(name="a"), {"name": "a"}),
        (ListTopics(), {}),
        (LookUpOffset(topic="a", partition=0, at="end"), {"topic": "a", "partition": 0, "at": "end"}),
    ):
        assert to_arguments(request) == arguments
        assert from_arguments(type(request), to_arguments(request)) == request
