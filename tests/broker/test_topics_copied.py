"""What a replica takes in of the metadata log that it copies (R13)."""

from __future__ import annotations

import pytest
from alone import alone

from mqcore.broker._topics import Topics
from mqcore.config import TopicConfig
from mqcore.errors import StorageError
from mqcore.limits import Limits
from mqcore.log import MetadataLog
from mqcore.testing import run_simulation


def test_g12_what_a_replica_does_not_understand_is_met_again_and_never_passed_over() -> None:
    """It would count as a member that has the log, and could never reign: a reign reads the log to its end."""

    async def main() -> None:
        async with alone() as setup:
            written = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append)
            await written.create("before", TopicConfig())
            copied = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append)
            await copied.take_committed(setup.store.metadata.end_offset)
            assert set(copied.by_name) == {"before"}
            await MetadataLog(setup.store).append([{"type": "of-a-later-release"}])
            await written.create("after", TopicConfig())
            for _ in range(3):
                with pytest.raises(StorageError, match="of-a-later-release") as caught:
                    await copied.take_committed(setup.store.metadata.end_offset)
                assert caught.value.kind == "foreign"
            assert set(copied.by_name) == {"before"}

    run_simulation(main, seed=1)
