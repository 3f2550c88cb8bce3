"""How damage of a log is told: the bytes, and the last offset that is gone, not the one after it."""

from __future__ import annotations

import pytest

from mqcore.log._types import Damage


@pytest.mark.parametrize(
    ("offsets", "words"),
    [((0, 674), "bytes 156 to 37431, offsets 0 to 673,"), ((5, 5), "bytes 156 to 37431")],
)
def test_g12_damage_names_its_offsets_if_it_takes_any(offsets: tuple[int, int], words: str) -> None:
    assert Damage(156, 37431, *offsets, "body checksum does not match").place == words
