"""Wire codes: each has a class by its number, and the error that stands for it says what the caller can do."""

from __future__ import annotations

import pytest

from mqcore.errors import (
    ConfigurationError,
    LostFromError,
    MqcoreError,
    NotPrimaryError,
    OutcomeUnknownError,
    RefusedError,
    RejectedError,
    RemoteProtocolError,
)
from mqcore.protocol import Code, RequestFailedError, error_for

pytestmark = pytest.mark.quick

CLASSES: list[tuple[range, type[MqcoreError]]] = [
    (range(1, 100), RemoteProtocolError),
    (range(100, 200), RejectedError),
    (range(200, 300), OutcomeUnknownError),
    (range(300, 400), RequestFailedError),
]
ADMINISTRATIVE: dict[int, type[MqcoreError]] = {Code.REFUSED: RefusedError, Code.INVALID_REQUEST: ConfigurationError}


@pytest.mark.parametrize("code", [*Code, 99, 199, 299, 399], ids=str)
def test_the_error_is_of_the_code_s_class_known_or_not(code: int) -> None:
    error = error_for(code, "why")
    by_number = next(each for numbers, each in CLASSES if code in numbers)
    assert isinstance(error, ADMINISTRATIVE.get(code, by_number))
    assert str(error) == "why"


def test_not_primary_says_where_to_go_and_may_be_sent_again() -> None:
    error = error_for(Code.NOT_PRIMARY, "elsewhere", {"epoch": 7, "urls": ["tcp://b:1", "tcp://c:1"]})
    assert isinstance(error, NotPrimaryError)
    assert (error.epoch, error.urls, error.retryable) == (7, ("tcp://b:1", "tcp://c:1"), True)


@pytest.mark.parametrize("facts", [{}, {"epoch": "7", "urls": "tcp://b:1"}, {"urls": [1, None]}])
def test_not_primary_without_usable_facts_names_no_place(facts: dict[str, object]) -> None:
    error = error_for(Code.NOT_PRIMARY, "elsewhere", facts)
    assert isinstance(error, NotPrimaryError)
    assert (error.epoch, error.urls) == (0, ())


def test_R12_lost_from_names_the_first_sequence_that_is_lost() -> None:
    error = error_for(Code.LOST_FROM, "a failover took them", {"sequence": 41})
    assert isinstance(error, LostFromError)
    assert (error.sequence, error.retryable) == (41, False)
    assert not isinstance(error_for(Code.LOST_FROM, "and says no more"), LostFromError)


def test_R10_not_yet_is_asked_again_and_diverged_is_not() -> None:
    assert Code.NOT_YET.retryable
    assert not Code.DIVERGED.retryable
    error = error_for(Code.DIVERGED, "parted", {"offset": 5})
    assert isinstance(error, RequestFailedError)
    assert (error.name, error.facts) == ("diverged", {"offset": 5})
