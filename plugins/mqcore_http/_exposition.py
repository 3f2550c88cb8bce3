"""Metrics as text: the Prometheus text format 0.0.4, and OpenMetrics 1.0 for those that ask for it.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/OpenObservability/OpenMetrics (specification, "Text format"). Lets others run every few hundred
samples: ten thousand partitions are much text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from mqcore.abc import MetricFamily

__all__ = ["OPENMETRICS", "PROMETHEUS", "exposition"]

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

SAMPLES_PER_TURN = 500
"""Samples between two looks at what else is to be done: well below a millisecond of work, for most."""
TURN_S = 0.002
"""How long those may take that are not just read off, such as the lag of a group over all its partitions."""
_SAMPLES_PER_LOOK = 8


async def exposition(families: Iterable[MetricFamily], *, openmetrics: bool) -> bytes:
    """Return all ``families`` as text. Lets others run; no effect if cancelled."""
    lines: list[str] = []
    pieces: list[bytes] = []
    count = 0
    began = trio.current_time()
    # What tells values apart is the same in one family after the other: written once.
    written: dict[tuple[tuple[str, ...], Sequence[str]], str] = {}
    for metric, samples in families:
        labels, own_name = metric.labels, metric.name
        # OpenMetrics names a counter without the end that its values have.
        name = metric.name.removesuffix("_total") if openmetrics else metric.name
        lines.append(f"# HELP {name} {_escaped(metric.help, quotes=openmetrics)}\n# TYPE {name} {metric.kind}\n")
        for values, value in samples:
            text = written.get((labels, values))
            if text is None:
                text = written[labels, values] = _labels(labels, values)
            lines.append(f"{own_name}{text} {value}\n")
            count += 1
            is_late = count % _SAMPLES_PER_LOOK == 0 and trio.current_time() - began > TURN_S
            if is_late or count % SAMPLES_PER_TURN == 0:
                pieces.append("".join(lines).encode())
                lines.clear()
                await trio.lowlevel.checkpoint()
                began = trio.current_time()
        await trio.lowlevel.checkpoint()  # what comes next may be a list of everything
    if openmetrics:
        lines.append("# EOF\n")
    return b"".join([*pieces, "".join(lines).encode()])


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    inner = ",".join([f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)])
    return f"{{{inner}}}"


def _escaped(text: str, *, quotes: bool = True) -> str:
    if "\\" in text or '"' in text or "\n" in text:
        text = text.replace("\\", "\\\\").replace("\n", "\\n")
        return text.replace('"', '\\"') if quotes else text
    return text
