"""Limits fit into those that hold what they bound: defaults follow, a chosen value that cannot fit is refused."""

import pytest

from mqcore.config import make_config
from mqcore.errors import ConfigurationError
from mqcore.limits import FRAME_BYTES_BESIDE_BATCH, KIB, MIB, Limits


@pytest.mark.parametrize(
    ("outer", "value", "inner", "fits"),
    [
        ("receive_buffer_bytes_total_max", 2 * MIB, "frame_bytes_max", 2 * MIB),
        ("frame_bytes_max", 64 * KIB, "batch_bytes_max", 64 * KIB - FRAME_BYTES_BESIDE_BATCH),
        ("frame_bytes_max", 64 * KIB, "fetch_bytes_max", 64 * KIB - FRAME_BYTES_BESIDE_BATCH),
        ("frame_bytes_max", 64 * KIB, "admin_bytes_max", 64 * KIB),
        ("batch_uncompressed_bytes_max", 1 * MIB, "message_bytes_max", 1 * MIB),
        ("partitions_max", 100, "topics_max", 100),
        ("partitions_max", 100, "partitions_per_topic_max", 100),
    ],
)
def test_a_default_follows_a_lower_limit_and_a_chosen_value_is_held_against_it(
    outer: str, value: int, inner: str, fits: int
) -> None:
    assert getattr(Limits(**{outer: value}), inner) == fits
    assert getattr(Limits(**{outer: value, inner: fits}), inner) == fits
    with pytest.raises(ValueError, match=f"{inner} = {fits + 1}: more than {outer} = {value} has room for; at most"):
        Limits(**{outer: value, inner: fits + 1})


def test_limits_follow_through_more_than_one_step() -> None:
    assert Limits(receive_buffer_bytes_total_max=1 * MIB).batch_bytes_max == 1 * MIB - FRAME_BYTES_BESIDE_BATCH


def test_g18_a_configuration_whose_limits_contradict_each_other_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"arguments.*batch_bytes_max = .* or raise frame_bytes_max"):
        make_config(storage="memory://", limits={"frame_bytes_max": "64 KiB", "batch_bytes_max": "1 MiB"})


def test_a_peer_s_limits_lower_one_s_own_and_never_raise_them() -> None:
    own = Limits(message_bytes_max=1000, key_bytes_max=500)
    met = own.within({"message_bytes_max": 2000, "key_bytes_max": 400, "a_newer_limit": 1})
    assert (met.message_bytes_max, met.key_bytes_max) == (1000, 400)
    assert own.within(own.published()) == own


def test_a_peer_that_states_nothing_of_tags_is_older_than_they_are_and_takes_none():
    older = {name: value for name, value in Limits().published().items() if "tag" not in name}
    met = Limits().within(older)
    assert (met.batch_tags_max, met.fetch_tags_max) == (0, 0)
    assert met.message_bytes_max == Limits().message_bytes_max


def test_limits_of_a_peer_that_do_not_fit_into_each_other_are_met_all_the_same() -> None:
    own = Limits(message_bytes_max=1000, batch_bytes_max=1 << 20)
    met = own.within({"frame_bytes_max": 0, "batch_uncompressed_bytes_max": 1})
    assert met.frame_bytes_max == 64 * 1024
    assert met.batch_bytes_max < met.frame_bytes_max
    assert met.message_bytes_max <= met.batch_uncompressed_bytes_max
