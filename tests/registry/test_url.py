"""URLs of parts: what is read is what is written, names that are no UTF-8 included."""

from __future__ import annotations

import os

import pytest

from mqcore.errors import ConfigurationError
from mqcore.url import Url

pytestmark = pytest.mark.quick

NAMES = [b"plain", b"two words", "\u00e9".encode(), b"\xff\xfe", b"half \xc3", b"100%", b"%FF"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_that_very_path_through_text_and_back(name: bytes) -> None:
    url = Url("mmap", "/" + os.fsdecode(name), {"spare": os.fsdecode(name)})
    text = str(url)
    assert text.isascii()
    assert Url.parse(text) == url
    assert os.fsencode(Url.parse(text).path) == b"/" + name


@pytest.mark.parametrize("name", [b"plain", "\u00e9".encode(), b"\xff\xfe"])
def test_a_path_that_was_typed_as_it_is_means_that_very_path(name: bytes) -> None:
    assert os.fsencode(Url.parse("mmap:///" + os.fsdecode(name)).path) == b"/" + name


@pytest.mark.parametrize("text", ["", "mmap", "://x", "mmap:/x", "mmap:///a?b", "mmap:///a?b=1&b=2", "mmap:///a%00"])
def test_what_is_no_url_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Url.parse(text)
    assert repr(text) in str(caught.value)
