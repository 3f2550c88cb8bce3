"""G18: batches in a private codec or body encoding are taken by topics that name it, and by no other."""

from __future__ import annotations

import zlib
from typing import Any

from mqcore.batch import encode_batch, seal_body
from mqcore.limits import Limits
from mqcore.protocol import Code, Failed, Produce, Produced, Result
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded


class Private:
    """A codec of somebody's own."""

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data)


def batch_of(codec: int = 0, encoding: int = 1) -> bytes:
    codec_of = Private(codec) if codec else None
    batch = bytearray(encode_batch([b"text " * 100], created_ms=1, limits=Limits(), codec=codec_of))  # type: ignore[arg-type]
    batch[5] = encoding
    seal_body(batch)
    return bytes(batch)


async def send(client: Any, topic: bytes, batch: bytes) -> Any:
    await client.send(Produce(client.id(), topic, 0, 0, False, batch))
    return await client.receive()


def test_a_private_tag_is_refused_by_name_unless_the_topic_names_it(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            plain = await client.create("plain")
            named = await client.create("named", private_tags=[200, 130])
            for codec, encoding, kind, tag in ((200, 1, "codec", 200), (0, 130, "body encoding", 130)):
                refused = await send(client, plain, batch_of(codec, encoding))
                assert isinstance(refused, Failed)
                assert (refused.code, f"{kind} {tag} is private" in refused.text) == (Code.UNKNOWN_CODEC, True)
                assert isinstance(await send(client, named, batch_of(codec, encoding)), Produced)
            assert isinstance(await send(client, named, batch_of(201)), Failed)
            assert (await client.fetch(plain, 0)).committed_offset == 0

    run_virtual(main)


def test_the_tags_of_a_topic_are_altered_while_it_is_open_and_kept_over_a_restart(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        for life in range(2):
            async with open_setup("mmap:///data", ports=model_ports(life, disk), flush="sync") as setup:
                async with setup.client() as client:
                    if life == 0:
                        topic = await client.create("lines")
                        assert isinstance(await send(client, topic, batch_of(255)), Failed)
                        altered = await client.call("topic.alter", name="lines", config={"private_tags": [255]})
                        assert isinstance(altered, Result)
                    assert isinstance(await send(client, topic, batch_of(255)), Produced)

    run_simulation(main, seed=1)


def test_a_tag_that_is_not_private_cannot_be_named(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            for tag in (127, 256):
                refused = await client.call("topic.create", name="lines", config={"private_tags": [tag]})
                assert isinstance(refused, Failed)
                assert refused.code == Code.INVALID_REQUEST
                assert "private_tags" in refused.text

    run_virtual(main)
