"""Topic names: one rule, used wherever a name enters."""

import pytest

from mqcore.config import check_topic_name
from mqcore.errors import ConfigurationError
from mqcore.limits import Limits

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", ["a", "orders.v2_new-1", "...", "-", "A" * 200])
def test_plain_names_are_allowed(name: str) -> None:
    assert check_topic_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../etc", "a\x00b", "a\nb", "a b", "ä", "a" * 201, "a" * 300, "\ud800"]
)
def test_other_names_are_refused_on_one_short_printable_line(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_topic_name(name)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 200


def test_the_length_is_a_limit() -> None:
    limits = Limits(topic_name_bytes_max=5)
    assert [check_topic_name("a" * size, limits) for size in (4, 5)] == ["aaaa", "aaaaa"]
    with pytest.raises(ConfigurationError, match="longer than 5 bytes"):
        check_topic_name("a" * 6, limits)
