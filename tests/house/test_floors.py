"""The house keeps its floors: imports point down, plug-ins see the ground floor only, state machines see no I/O.

Read from the syntax trees of the sources; nothing is imported.

What an import is, decided once: an import counts wherever it stands (module, function, ``if TYPE_CHECKING``), because a
name in an annotation is knowledge all the same. One exception for ``TYPE_CHECKING``: it may name a library that must
not be loaded, since it does not exist at run time.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.needs("source-tree")

GROUND = ("abc", "batch", "blocking", "certificates", "config", "directories", "ensembles", "errors", "followed",
          "grounds", "guarantees", "limits", "links", "nurseries", "pieces", "ports", "registry", "sockets", "units",
          "url", "volatile")  # fmt: skip
FLOOR = {
    **dict.fromkeys(GROUND, 0),
    "operations": 1,
    "protocol": 1,
    "logins": 2,
    "log": 1,
    "replication": 2,
    "groups": 2,
    "delivery": 2,
    "broker": 3,
    "client": 3,
    "testing": 4,
    "sync": 4,
    "aio": 4,
    "cli": 5,
    "__main__": 6,
}
"""Number of each room's floor; a room may import rooms of its own floor (no circles) and of those below."""

STATE_MACHINES = ("replication", "groups", "protocol", "operations", "guarantees", "batch", "units", "url", "errors",
                  "limits", "pieces", "delivery")  # fmt: skip
"""Rooms that compute only: no trio, no sockets, no threads."""
FOR_SHELLS_ONLY = {"trio", "socket", "threading", "asyncio", "select", "selectors", "ssl", "subprocess"}

USE_ALL_PUBLIC_NAMES = ("mqcore_access", "mqcore_bench", "mqcore_cert_command", "mqcore_conformance", "mqcore_pytest",
                        "mqcore_raid_command")  # fmt: skip
"""Commands, the suite and the pytest plug-in are users of the whole house, not parts of it. The parts of access bring a
command of their own, which a broker never loads."""

MEASURES_BESIDE = {("mqcore_bench", "mqcore_quic.DatagramSocket")}
"""(package, name): what a part is compared with stands on the same socket, or the difference of two would count."""

PLANTS_BUGS = "mqcore_conformance.saboteurs"
"""Names what is private on purpose, and fails by itself when such a name is gone."""

PORTS_RULE = ("mqcore.broker", "mqcore.log", "mqcore_memory", "mqcore_mmap", "mqcore_null", "mqcore_raid")
AROUND_THE_PORTS = {"os", "io", "time", "datetime", "random", "secrets", "threading", "socket", "mmap", "fcntl",
                    "tempfile", "pathlib", "shutil", "uuid", "queue", "concurrent", "subprocess", "signal"}  # fmt: skip
ALLOWED_AROUND_THE_PORTS: dict[tuple[str, str], str] = {}
"""(module, imported library): why this module may go around the ports."""


def room_of(name):
    """``mqcore.log._index`` is in room ``log``; None for the root package, its names, and what is not ours."""
    if name.startswith(("mqcore.ensembles", "mqcore.followed", "mqcore.links", "mqcore.sockets", "mqcore.volatile")):
        return name.split(".")[1]  # loaded by parts only, and it stands on the contracts that stand on the ports
    parts = name.split(".")
    return parts[1] if parts[0] == "mqcore" and len(parts) > 1 and parts[1] in FLOOR else None


def circle_in(edges):
    """Return one circle of a directed graph as a list of names, or None."""
    state, path = {}, []

    def visit(name):
        state[name] = "open"
        path.append(name)
        for other in sorted(edges.get(name, ())):
            if state.get(other) == "open":
                return [*path[path.index(other) :], other]
            if other not in state and (found := visit(other)):
                return found
        path.pop()
        state[name] = "done"
        return None

    return next((found for name in sorted(edges) if name not in state and (found := visit(name))), None)


def owner_of_private(name):
    """``mqcore.abc._storage.Log`` is private to ``mqcore.abc``; None when nothing in the name is private."""
    parts = name.split(".")
    for index, part in enumerate(parts[1:], 1):
        if part.startswith("_") and not part.startswith("__"):
            return ".".join(parts[:index])
    return None


def test_every_room_has_a_floor(house):
    unknown = {module.room for module in house.core} - FLOOR.keys() - {None}
    assert not unknown, f"give these rooms a floor in FLOOR: {sorted(unknown)}"


def test_imports_point_down(house):
    wrong = [
        f"{module.path}:{line.line} imports {line.name}"
        for module in house.core
        for line in module.imports
        if (room := room_of(module.name)) and (other := room_of(line.name)) and FLOOR[other] > FLOOR[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_root_package_loads_nothing_above_the_ground_floor(house):
    root = next(module for module in house.core if module.name == "mqcore")
    loaded = [line.name for line in root.imports if line.at_load and not line.for_types]
    wrong = [name for name in loaded if FLOOR.get(room_of(name), 0) > 0]
    assert not wrong, f"every import of a room loads the root package, so it stays small: {wrong}"


def test_no_circles_between_rooms(house):
    edges = {}
    for module in house.core:
        for line in module.imports:
            room, other = room_of(module.name), room_of(line.name)
            if room and other and other != room:
                edges.setdefault(room, set()).add(other)
    assert circle_in(edges) is None


def test_no_circles_between_modules(house):
    known = {module.name for module in house.modules}
    # A package's own names are those of its modules, each counted where it is defined.
    packages = {module.name for module in house.modules if module.path.endswith("__init__.py")}
    edges = {
        module.name: {
            target
            for line in module.imports
            if (target := line.module_among(known)) and target != module.name and target not in packages
        }
        for module in house.modules
        if module.name != "mqcore"
    }
    assert circle_in(edges) is None


def test_plugins_import_the_ground_floor_only(house):
    wrong = [
        f"{module.path}:{line.line} imports {line.name}"
        for module in house.modules
        if module.package not in ("mqcore", *USE_ALL_PUBLIC_NAMES)
        for line in module.imports
        if (line.top == "mqcore" and room_of(line.name) not in GROUND)
        or (line.top in house.plugins and line.top != module.package)
    ]
    assert not wrong, "\n".join(wrong)


def test_private_modules_are_used_by_their_own_package_only(house):
    wrong = []
    for module in house.modules:
        for line in module.imports:
            owner = owner_of_private(line.name) if line.top in {"mqcore", *house.plugins} else None
            if owner is not None and module.home != owner and not module.home.startswith(owner + "."):
                wrong.append(f"{module.path}:{line.line} imports {line.name}, private to {owner}")
    assert not wrong, "\n".join(wrong)


def test_state_machines_do_no_input_or_output(house):
    wrong = [
        f"{module.path}:{line.line} imports {line.name}"
        for module in house.core
        if module.room in STATE_MACHINES
        for line in module.imports
        if not line.for_types and line.top in FOR_SHELLS_ONLY
    ]
    assert not wrong, "\n".join(wrong)


def test_no_part_is_named_outside_its_package(house):
    """Neither an import nor a text names a part's package or class anywhere else: the URL's scheme picks it.

    Users of the whole house may use each other: the benchmarks measure the suite's simulation. A saboteur replaces a
    name inside the part that it sabotages.
    """
    parts = [module for module in house.modules if module.package not in ("mqcore", *USE_ALL_PUBLIC_NAMES)]
    owners = {name: module.package for module in parts if module.name == module.package for name in module.exports}
    owners.update({package: package for package in house.plugins})
    wrong = []
    for module in house.modules:
        for line in module.imports:
            users = {line.top, module.package} <= {*USE_ALL_PUBLIC_NAMES}
            users = users or (module.package, line.name) in MEASURES_BESIDE
            if line.top in house.plugins and line.top != module.package and not users:
                wrong.append(f"{module.path}:{line.line} imports {line.name}")
        for number, text in module.texts:
            owner = owners.get(text.split(":")[-1].split(".")[0], module.package)
            if owner != module.package and text not in module.classes and module.home != PLANTS_BUGS:
                wrong.append(f"{module.path}:{number} names {text!r}, which belongs to {owner}")
    assert not wrong, "\n".join(wrong)


def test_storages_log_and_broker_reach_the_machine_through_ports_only(house):
    wrong, used = [], set()
    for module in house.modules:
        if not any(module.name == name or module.name.startswith(name + ".") for name in PORTS_RULE):
            continue
        for line in module.imports:
            if line.top not in AROUND_THE_PORTS or line.for_types:
                continue
            if (module.name, line.top) in ALLOWED_AROUND_THE_PORTS:
                used.add((module.name, line.top))
            else:
                wrong.append(f"{module.path}:{line.line} imports {line.name}; use mqcore.ports")
    assert not wrong, "\n".join(wrong)
    assert used == ALLOWED_AROUND_THE_PORTS.keys(), "an allowance that nobody uses any more"
