"""What can be done to a storage, as data: drawn by Hypothesis, written into a repro, told in words. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import attrs
from hypothesis import strategies as st

from mqcore.errors import ConfigurationError

NAMES = ("a", "b", "metadata-0")
LARGE_BYTES = 150_000
STEPS_MAX = 25
SIZE_BYTES_MAX = 64 * 1024 * 1024

Kind = Literal["append", "flush", "read", "truncate", "trim", "delete", "reopen", "kill", "power-cut"]
KINDS = get_args(Kind)


@attrs.frozen
class Operation:
    """One step: ``log`` is a number of a name, ``where`` a share of the log (0 to 1), ``sizes`` of chunks in bytes.

    A flush covers the log alone when ``where`` is 0, else every open log.
    """

    kind: Kind
    log: int = 0
    where: float = 0.0
    sizes: tuple[int, ...] = ()


def operations(*, power_cuts: bool) -> st.SearchStrategy[list[Operation]]:
    """Sequences of operations that end with a crash, half of them after a flush of all; power cuts if ``power_cuts``.

    A crash in the middle is rarely behind what it could take, so that each sequence gets one that is.
    """
    log = st.integers(0, len(NAMES) - 1)
    where = st.sampled_from((0.0, 0.2, 0.5, 0.9, 1.0))
    size = st.sampled_from((0, 1, 100, 511, 513, 4096, 5000, 20_000, LARGE_BYTES))
    sizes = st.lists(size, min_size=1, max_size=4).map(tuple)
    crashes = ("kill", "power-cut") if power_cuts else ("kill",)
    choices = [
        *(st.builds(Operation, st.just(kind), log, where, sizes) for kind in ("append", "append", "read")),
        *(st.builds(Operation, st.just(kind), log, where) for kind in ("flush", "truncate", "trim")),
        st.builds(Operation, st.just("delete"), log),
        *(st.builds(Operation, st.just(kind)) for kind in ("reopen", *crashes)),
    ]
    crash = Operation("power-cut" if power_cuts else "kill")
    endings = st.sampled_from(([Operation("flush", where=1.0), crash], [crash]))
    return st.builds(list.__add__, st.lists(st.one_of(choices), max_size=STEPS_MAX), endings)


def tried_always(*, power_cuts: bool) -> Iterator[list[Operation]]:
    """Sequences that are tried before any is drawn: what was made durable of two logs, then each way to end."""
    pieces = (20_000, 5000, 100)
    durable = [
        *(Operation("append", log, sizes=pieces) for log in (0, 1, 0, 1)),
        Operation("flush", where=1.0),
        Operation("trim", 0, 0.5),
        Operation("truncate", 1, 0.9),
    ]
    endings: tuple[Kind, ...] = ("reopen", "kill", "power-cut") if power_cuts else ("reopen", "kill")
    for ending in endings:
        yield [*durable, Operation(ending)]
        yield [*durable[:5], Operation(ending)]


def operation_to_data(step: Operation) -> dict[str, Any]:
    """Return a step as JSON can hold it."""
    return {"kind": step.kind, "log": step.log, "where": step.where, "sizes": list(step.sizes)}


def operation_from_data(data: Mapping[str, Any]) -> Operation:
    """Return the step that ``operation_to_data`` wrote; ``ConfigurationError`` for anything else."""
    try:
        step = Operation(data["kind"], int(data["log"]), float(data["where"]), tuple(map(int, data["sizes"])))
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(f"{dict(data)!r} is no step: kind, log, where and sizes") from None
    sane = step.kind in KINDS and 0 <= step.log < len(NAMES) and 0 <= step.where <= 1
    if not sane or any(not 0 <= size <= SIZE_BYTES_MAX for size in step.sizes):
        raise ConfigurationError(f"{dict(data)!r} is no step: kind, log, where or sizes cannot be")
    return step


def tell_operation(data: Mapping[str, Any]) -> str:
    """Return a step in words."""
    step = operation_from_data(data)
    name = NAMES[step.log]
    match step.kind:
        case "append":
            return f"append {' + '.join(map(str, step.sizes))} bytes to {name}"
        case "read":
            return f"read {step.sizes[0] if step.sizes else 0} bytes of {name} at {step.where:.0%} of it"
        case "truncate" | "trim":
            return f"{step.kind} {name} at {step.where:.0%} of it"
        case "flush":
            return f"flush {name}" if step.where == 0 else "flush every open log"
        case "delete":
            return f"delete {name}"
        case _:
            return {"reopen": "close and open again", "kill": "kill its process, open again"}.get(
                step.kind, "cut the power, open again"
            )
