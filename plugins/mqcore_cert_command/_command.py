"""The verbs of ``mqcore cert``: where the files go, and what is said of them. Must not know what is in them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqcore.cli.shell import Group, Verb, current, make_folder, output_options, refuse, write_json, write_line

if TYPE_CHECKING:
    from mqcore_cert_command._make import Pair

__all__ = ["cert"]

DAYS = 365
SERVER, CLIENT, AUTHORITY = "server", "client", "ca"


@click.group("cert", cls=Group, examples=["mqcore cert dev --to certs", "mqcore cert dev --to certs --client alice"])
@output_options
def cert() -> None:
    """Make certificates for development. In production they come from your own authority."""


@cert.command(
    cls=Verb,
    examples=[
        "mqcore cert dev --to certs",
        "mqcore cert dev --to certs --host broker1.lan --host 10.0.0.7 --client alice",
        "mqcore cert dev --to certs --server a --server b --server c",
    ],
)
@click.option("--to", required=True, metavar="DIR", help="The folder; made if it is missing. Nothing is overwritten.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or address of a server, beside localhost, 127.0.0.1 and ::1; repeatable.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="NAME",
    help="A broker, a certificate each, for NAME too; repeatable. [server, one for all]",
)
@click.option(
    "--client", "clients", multiple=True, metavar="NAME", help="A client, a certificate each; repeatable. [client]"
)
@click.option("--days", type=click.IntRange(1, 3650), default=DAYS, show_default=True, help="How long they are valid.")
@output_options
def dev(to: str, hosts: tuple[str, ...], servers: tuple[str, ...], clients: tuple[str, ...], days: int) -> None:
    """Make an authority, a certificate for servers and one for each client, with their keys.

    A server's is for servers and for clients, since the nodes of a set connect to each other. Files are called as the
    server or client is. With ca.pem and ca.key in DIR already, that authority is used, and what is named is made: so
    `--client bob` adds one more client, `--server d` one more server.
    """
    from mqcore_cert_command._make import check_host, load_authority, make_authority

    for host in hosts:
        check_host(host)
    for option, given in (("--server", servers), ("--client", clients)):
        for name in given:
            _check_name(option, name)
    for name in servers:
        check_host(name, "--server")
    make_folder(to)
    folder = Path(to)
    old = [folder / f"{AUTHORITY}.{ending}" for ending in ("pem", "key")]
    has_authority = all(path.exists() for path in old)
    is_added = has_authority and bool(servers or clients)
    servers = servers or (() if is_added and not hosts else (SERVER,))
    clients = clients or (() if is_added else (CLIENT,))
    names = [*servers, *clients]
    if len(set(names)) < len(names):
        refuse(f"{', '.join(names)}: the same name is given twice, and files are called by it")
    _refuse_existing(folder, names if has_authority else [AUTHORITY, *names])
    if has_authority:
        authority = load_authority(old[0].read_bytes(), old[1].read_bytes(), str(old[0]))
    else:
        authority = make_authority(days)
        _write(folder, AUTHORITY, authority.cert_pem, authority.key_pem)
    for name in servers:
        own = [] if name == SERVER else [name]
        _make(folder, authority, name, [*own, *hosts], days=days, is_server=True)
    for name in clients:
        _make(folder, authority, name, [], days=days, is_server=False)
    _tell_made(folder, names if has_authority else [AUTHORITY, *names], days)


def _check_name(option: str, name: str) -> None:
    """Refuse what is no name of a file, or of one that is there for something else."""
    signs = "-_" if option == "--client" else "-_."
    taken = (AUTHORITY, SERVER) if option == "--client" else (AUTHORITY, CLIENT)
    is_plain = name.isascii() and name.translate(str.maketrans("", "", signs)).isalnum() and name[0] not in "-."
    if name in taken or not is_plain:
        marks = ", ".join(repr(sign) for sign in signs)
        refuse(f"{option} {name}: give a name of letters, digits, {marks}, not {taken[0]!r} or {taken[1]!r}")


def _make(folder: Path, authority: Pair, name: str, hosts: list[str], *, days: int, is_server: bool) -> None:
    from mqcore_cert_command._make import make_certificate

    pair = make_certificate(authority, name, hosts, days=days, is_server=is_server)
    _write(folder, name, pair.cert_pem, pair.key_pem)


def _tell_made(folder: Path, made: list[str], days: int) -> None:
    files = [str(folder / f"{name}.{ending}") for name in made for ending in ("pem", "key")]
    if current().json:
        write_json({"files": files, "days": days})
        return
    for path in files:
        write_line(path)
    write_line(f"for {days} days; for development only: {folder / AUTHORITY}.key makes certificates of every name")


def _refuse_existing(folder: Path, names: list[str]) -> None:
    for name in names:
        for path in (folder / f"{name}.pem", folder / f"{name}.key"):
            if os.path.lexists(path):
                refuse(f"{path} exists, and nothing is overwritten: name another folder, or move it away")


def _write(folder: Path, name: str, cert_pem: bytes, key_pem: bytes) -> None:
    for path, data, mode in ((folder / f"{name}.key", key_pem, 0o600), (folder / f"{name}.pem", cert_pem, 0o644)):
        try:
            # Never readable by others, not even for a moment; and never over a file that came meanwhile.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            if error.errno == errno.EEXIST:
                refuse(f"{path} exists, and nothing is overwritten: name another folder, or move it away")
            refuse(f"{path}: cannot be written ({error.strerror}): name a folder that this user may write to")
