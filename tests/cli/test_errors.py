"""Every error survives a process border: pickled, copied, out of a pool, with all that it says."""

from __future__ import annotations

import copy
import inspect
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import mqcore.errors
from mqcore.errors import CorruptionError, MqcoreError, StorageError
from mqcore.protocol import RequestFailedError

CLASSES = [each for each in vars(mqcore.errors).values() if inspect.isclass(each) and issubclass(each, MqcoreError)]
BY_ANNOTATION = {"str": "io", "str | None": "/a/path", "int": 7, "int | None": 8, "bool": True}
BY_NAME = {
    "kind": "full",
    "logs": ["a", "b"],
    "urls": ["tcp://b:1"],
    "facts": {"offset": 3},
    "code": 301,
    "reason": "loss",
}


def example(cls):
    """An error of ``cls`` with a value for every argument."""
    if cls.__init__ is Exception.__init__:
        return cls("what failed")
    arguments = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            arguments[name] = BY_NAME.get(name) or BY_ANNOTATION[parameter.annotation]
    return cls(**arguments)


def raise_one(cls):
    raise example(cls)


def assert_same(found, expected):
    assert type(found) is type(expected)
    assert str(found) == str(expected)
    assert found.args == expected.args
    assert {**vars(found), "__notes__": None} == {**vars(expected), "__notes__": None}


@pytest.mark.quick
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", [*CLASSES, RequestFailedError], ids=lambda cls: cls.__name__)
def test_an_error_is_the_same_after_pickling_and_copying(cls, protocol):
    error = example(cls)
    error.add_note("a note")
    back = pickle.loads(pickle.dumps(error, protocol))
    assert_same(back, error)
    assert back.__notes__ == ["a note"]
    assert_same(copy.copy(error), error)


@pytest.mark.parametrize("cls", [StorageError, CorruptionError])
def test_an_error_comes_out_of_a_process_pool(cls):
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert_same(pool.submit(raise_one, cls).exception(), example(cls))
    with context.Pool(1) as pool, pytest.raises(cls) as caught:
        pool.apply(raise_one, (cls,))
    assert_same(caught.value, example(cls))
