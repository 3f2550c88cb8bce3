"""What verdicts are of: versions and contents of the files that define mqcore, the suite and the parts under test.

A result is that of its files, not of a name: an installation that is edited keeps its version. Files that a part reads
outside of the packages of its class and its base classes are not seen. Knows nothing about runs and reports.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from mqcore.errors import MqcoreError
from mqcore.registry import find, installed

CORE = ("mqcore", "mqcore_conformance")
SUFFIXES = (".py", ".so", ".pyd")
FILES_MAX = 20_000


def made_of(parts: Mapping[str, Iterable[str]]) -> Mapping[str, str]:
    """Return version and digest of mqcore with its suite, and of each part by its scheme; ``parts``: URLs by group."""
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mqcore", "trio", "attrs"))
    found = {"mqcore": f"{libraries}, Python {platform.python_version()}, files {_digest(CORE)}"}
    for group, urls in parts.items():
        for scheme in dict.fromkeys(url.partition(":")[0] for url in urls):
            told = _of_part(group, scheme)
            found[scheme] = f"{found[scheme]}; {told}" if scheme in found else told
    return found


def _of_part(group: str, name: str) -> str:
    try:
        part = find(group, name)
    except MqcoreError as error:  # its checks say so; a part that cannot be loaded is never taken for another one
        return f"not loaded: {error}"
    modules = dict.fromkeys(cls.__module__ for cls in part.__mro__ if cls.__module__ not in sys.stdlib_module_names)
    origin = next((one.origin for one in installed(group, name)), "")
    return f"{origin}, files {_digest(modules)}"


def _digest(modules: Iterable[str]) -> str:
    """Return a few letters that change with any file of the packages of ``modules``; never the same without files."""
    digest = hashlib.blake2b(digest_size=8)
    count = 0
    for package in dict.fromkeys(name.partition(".")[0] for name in modules):
        for path, inside in _files(sys.modules.get(package)):
            count += 1
            digest.update(f"{package}/{inside}\0".encode("utf-8", "surrogateescape"))
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
            if count > FILES_MAX:
                break
    if not 0 < count <= FILES_MAX:
        return os.urandom(8).hex()
    return digest.hexdigest()


def _files(module: ModuleType | None) -> Iterator[tuple[Path, str]]:
    """Give the files of a module or package, each with its path inside."""
    if module is None:
        return
    if not hasattr(module, "__path__"):
        path = Path(getattr(module, "__file__", None) or "")
        if path.is_file():
            yield path, path.name
        return
    for folder in map(Path, module.__path__):
        for path in sorted(folder.rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path, str(path.relative_to(folder))
