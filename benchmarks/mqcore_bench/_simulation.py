"""A process that runs plans of the conformance suite for a while: ``python -m mqcore_bench._simulation SECONDS``.

Prints one JSON object: ``events`` (steps of tasks, calls of the file system, operations on sockets), ``runs``, and the
``seconds`` of processor time that they took, so that what else the machine does counts less. Must not know of rows.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time

from mqcore_conformance.checkers import check_history
from mqcore_conformance.plans import FAMILIES, FLUSH_POLICIES, draw_plan
from mqcore_conformance.play import run_plan

__all__ = ["main"]


def main(seconds: float) -> None:
    """Run plans of every family and flush policy, seed after seed, until ``seconds`` are over: whole rounds of them."""
    logging.disable(logging.WARNING)  # clients that connect again are no news here
    events = runs = 0
    cells = [(family, flush) for family in FAMILIES for flush in FLUSH_POLICIES.values()]
    run_plan(draw_plan(0, storage="mmap://{dir}", transport="tcp", flush="sync", family="none"))  # imports
    began = time.process_time()
    for seed in itertools.count():
        for family, flush in cells:
            result = run_plan(draw_plan(seed, storage="mmap://{dir}", transport="tcp", flush=flush, family=family))
            check_history(result.history)
            events += result.events
            runs += 1
        if time.process_time() - began >= seconds:
            break
    print(json.dumps({"events": events, "runs": runs, "seconds": time.process_time() - began}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
