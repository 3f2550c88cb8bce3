"""A reload applies what it says that it applies, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
import trio

from mqcore.broker import APPLICABLE, apply_config, open_broker
from mqcore.config import make_config
from mqcore.ports import system_ports

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


def test_every_key_that_is_applied_takes_effect_and_no_other_changes() -> None:
    async def main() -> None:
        config = make_config(storage="memory://", flush="none", listen=["inproc://reload"])
        async with open_broker(config) as broker:
            assert broker.reign is not None
            keys = {name.partition(".")[2] for name in APPLICABLE if name.startswith("retention.")}
            retention = attrs.evolve(config.retention, clock_step_max_ms=77_777, **dict.fromkeys(keys, 12_345))
            limits = attrs.evolve(config.limits, connections_max=17, frame_timeout_ms=1_234)
            done = apply_config(broker, attrs.evolve(config, retention=retention, limits=limits), system_ports())
            assert tuple(sorted(done.applied)) == APPLICABLE
            assert sorted(done.waiting) == ["limits.frame_timeout_ms", "retention.clock_step_max_ms"]
            assert broker.connections_max == broker.limits.connections_max == 17
            table = broker.reign.retention.table
            assert {getattr(table, key) for key in keys} == {12_345}
            assert table.clock_step_max_ms == config.retention.clock_step_max_ms
            assert broker.limits.frame_timeout_ms == config.limits.frame_timeout_ms
            assert broker.config.retention == table  # what the next reign begins with

    trio.run(main)


@pytest.mark.needs("source-tree")
def test_the_page_names_the_keys() -> None:
    named = re.findall(r"`((?:limits|retention)\.\w+)`", PAGE.read_text())
    assert tuple(named) == APPLICABLE
