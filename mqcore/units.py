"""Human units: bytes, durations and counts as text, exactly, in both directions.

``KB``, ``MB``, ``GB``, ``TB`` are decimal (10^3 ...), ``KiB``, ``MiB``, ``GiB``, ``TiB`` binary (2^10 ...).
A fraction is accepted where the result is whole ("1.5 MB"), never rounded. Must not know what the numbers are for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

__all__ = [
    "NUMBER_MAX",
    "format_bytes",
    "format_count",
    "format_duration_ms",
    "format_duration_us",
    "grouped",
    "parse_bytes",
    "parse_count",
    "parse_duration_ms",
    "parse_duration_us",
]

NUMBER_MAX = 2**63 - 1
"""Largest number that any unit yields: what a signed 64-bit field holds."""

_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_DURATIONS_US = {
    "us": 1,
    "ms": 10**3,
    "s": 10**6,
    "m": 60 * 10**6,
    "h": 3600 * 10**6,
    "d": 24 * 3600 * 10**6,
}
_COUNTS = {"k": 10**3, "M": 10**6, "G": 10**9}

_QUANTITY = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*\Z", re.ASCII)
_TEXT_MAX = 64


def parse_bytes(value: str | int) -> int:
    """Return ``value`` as a number of bytes: "2 MB", "64 KiB", "512", 512. The case of the unit does not matter.

    Raises ``ValueError``: negative, not whole, beyond ``NUMBER_MAX``, an unknown unit (the message lists the units).
    """
    factors = {name.lower(): factor for name, factor in _BYTES.items()}
    return _parse(value, factors, 1, "bytes", tuple(_BYTES), fold=True)


def parse_duration_ms(value: str | int) -> int:
    """Return ``value`` in ms: "500 ms", "1 m" (minutes), "2 h", "1.5 s"; a bare number counts ms.

    Raises as ``parse_bytes``.
    """
    return _parse_duration(value, 10**3, "ms")


def parse_duration_us(value: str | int) -> int:
    """Return ``value`` in us: "500 us", "2 ms"; a bare number counts us. Raises as ``parse_bytes``."""
    return _parse_duration(value, 1, "us")


def parse_count(value: str | int) -> int:
    """Return ``value`` as a number: "10k", "2 M", "100_000", 7 (k = 10^3, M = 10^6, G = 10^9).

    Raises as ``parse_bytes``.
    """
    return _parse(value, _COUNTS, 1, "a whole number", tuple(_COUNTS))


def format_bytes(size: int) -> str:
    """Return ``size`` bytes as text that ``parse_bytes`` reads back exactly: in the largest unit that divides it."""
    return _format(size, _BYTES, "B")


def format_duration_ms(duration_ms: int) -> str:
    """Return ``duration_ms`` as text that ``parse_duration_ms`` reads back exactly."""
    return _format(duration_ms * 10**3, _DURATIONS_US, "ms") if duration_ms else "0 ms"


def format_duration_us(duration_us: int) -> str:
    """Return ``duration_us`` as text that ``parse_duration_us`` reads back exactly."""
    return _format(duration_us, _DURATIONS_US, "us")


def format_count(count: int) -> str:
    """Return ``count`` with its thousands set apart by ``_``, as ``parse_count`` reads it back."""
    return f"{count:_}"


def grouped(number: float) -> str:
    """Return ``number``, rounded, for people to read: its thousands set apart by spaces, as in 13 623 672."""
    return f"{number:,.0f}".replace(",", " ")


def _parse_duration(value: str | int, base_us: int, base_name: str) -> int:
    factors = {name: Decimal(factor) / base_us for name, factor in _DURATIONS_US.items()}
    return _parse(value, factors, 1, base_name, tuple(_DURATIONS_US))


def _parse(
    value: str | int,
    factors: Mapping[str, int | Decimal],
    bare_factor: int,
    what: str,
    units: tuple[str, ...],
    *,
    fold: bool = False,
) -> int:
    allowed = f"write a number of {what} or a number and one of {', '.join(units)}"
    if what.startswith("a "):
        allowed = f"write {what}, with {', '.join(units)} behind it if you like"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a quantity; {allowed}")
    if isinstance(value, int):
        return _within(Decimal(value), value, allowed)
    match = _QUANTITY.match(value) if len(value) <= _TEXT_MAX else None
    if match is None:
        raise ValueError(f"{value[:_TEXT_MAX]!r} is not a quantity; {allowed}")
    number, unit = match.groups()
    factor = factors.get(unit.lower() if fold else unit) if unit else bare_factor
    if factor is None:
        raise ValueError(f"unknown unit {unit!r} in {value!r}; {allowed}")
    return _within(Decimal(number.replace("_", "")) * factor, value, allowed)


def _within(number: Decimal, value: str | int, allowed: str) -> int:
    if number < 0:
        raise ValueError(f"{value!r} is negative; {allowed}")
    if number > NUMBER_MAX:
        raise ValueError(f"{value!r} is too large; at most {NUMBER_MAX}")
    if number != number.to_integral_value():
        raise ValueError(f"{value!r} is not a whole number of the smallest unit; {allowed}")
    return int(number)


def _format(number: int, factors: Mapping[str, int], smallest: str) -> str:
    if number:
        for unit, factor in sorted(factors.items(), key=lambda item: -item[1]):
            if number % factor == 0:
                return f"{number // factor} {unit}"
    return f"{number} {smallest}"
