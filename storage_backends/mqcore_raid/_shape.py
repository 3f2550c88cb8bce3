"""The shape of an array: its directories, in mirror groups of so many. Pure; refuses what cannot be an array."""

from __future__ import annotations

import posixpath

import attrs

from mqcore.errors import ConfigurationError
from mqcore.url import Url
from mqcore_raid._config import RaidOptions

__all__ = ["Shape", "normal_path", "shape_of"]


@attrs.frozen
class Shape:
    """``paths`` of the members in the order of the URL; each ``copies`` of them in a row are a mirror group."""

    level: str
    paths: tuple[str, ...]
    copies: int

    @property
    def groups(self) -> int:
        """Number of mirror groups."""
        return len(self.paths) // self.copies

    def group_of(self, slot: int) -> int:
        """The mirror group of member number ``slot``."""
        return slot // self.copies

    @property
    def losses_survived(self) -> int:
        """Members that may be lost, whichever they are."""
        return self.copies - 1


def shape_of(url: Url, options: RaidOptions) -> Shape:
    """Return the shape that ``url`` and ``options`` ask for. Raises ``ConfigurationError``."""
    paths = tuple(normal_path(item, str(url)) for item in url.rest.split(","))
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigurationError(f"{url}: {path} is named twice; each member needs a directory of its own")
        inside = next((other for other in paths if path.startswith(other + "/")), None)
        if inside is not None:
            raise ConfigurationError(f"{url}: {path} lies inside {inside}; members must not contain each other")
    copies = {"0": 1, "1": len(paths), "10": options.copies}[options.level]
    count = len(paths)
    if options.level == "10" and (count % copies or count < 2 * copies):
        raise ConfigurationError(
            f"{url}: level=10 with copies={copies} needs {2 * copies}, {3 * copies}, ... members; {count} are named"
        )
    if count < 2:
        raise ConfigurationError(f"{url}: level={options.level} needs two members at least, as in raid:///d1,/d2")
    if options.min_members > copies:
        raise ConfigurationError(
            f"{url}: min_members={options.min_members}, but a mirror group has {copies} members at most"
        )
    if "{path}" not in options.member:
        raise ConfigurationError(f"{url}: member={options.member!r} does not say where {{path}} stands in it")
    return Shape(options.level, paths, copies)


def normal_path(item: str, where: str) -> str:
    """A member's directory without needless slashes and dots. Raises ``ConfigurationError`` that begins ``where``."""
    if not item.startswith("/"):
        raise ConfigurationError(f"{where}: member {item!r} is not an absolute path; write raid:///d1,/d2")
    path = "/" + posixpath.normpath(item).lstrip("/")
    if path == "/":
        raise ConfigurationError(f"{where}: the root directory cannot be a member; name a directory below it")
    return path
