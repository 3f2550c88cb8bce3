"""The verbs of ``mqcore user``. A password comes from a prompt or a file, never from an argument, and is not kept."""

from __future__ import annotations

import os
import sys

import click

from mqcore.abc import read_credentials
from mqcore.cli.shell import Group, Verb, current, output_options, refuse, write_json, write_line, write_table
from mqcore.errors import CommandNotPossibleError
from mqcore_access.users import changing_users, check_user_name, make_verifier, read_users

__all__ = ["user"]

USERS_VARIABLE = "MQCORE_USERS_FILE"

_users = click.option(
    "--users",
    metavar="FILE",
    envvar=USERS_VARIABLE,
    help=f"The file of users, as the broker's scram-sha-256 has it. [{USERS_VARIABLE}]",
)
_password = click.option(
    "--password-file",
    metavar="FILE",
    help="File with the password, mode 0600, instead of a prompt. [MQCORE_PASSWORD_FILE]",
)


@click.group(
    "user",
    cls=Group,
    examples=[
        "mqcore user add alice --users users",
        "mqcore user passwd alice --users users --password-file secret",
        "mqcore user list --users users --output json",
    ],
)
@output_options
def user() -> None:
    """Look after the file of users of a broker, also while it runs: the next login goes by what the file says then.

    The file has verifiers (RFC 5802), no passwords. It is replaced as a whole, mode 0600.
    """


def _file(users: str | None) -> str:
    if not users:
        refuse(f"which users? Name the file with --users, or {USERS_VARIABLE}")
    return users


def _checked(name: str) -> None:
    try:
        check_user_name(name)
    except ValueError as error:
        refuse(str(error))


def _password_of(name: str, path: str | None) -> str:
    path = path or os.environ.get("MQCORE_PASSWORD_FILE")
    if path:
        found = read_credentials(user=name, password_file=path)
        assert found is not None
        assert found.password is not None
        return found.password.reveal()
    if not sys.stdin.isatty():
        refuse("no terminal to ask for the password: name a file with --password-file or MQCORE_PASSWORD_FILE")
    typed: str = click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True)
    return typed


def _done(name: str, what: str) -> None:
    if current().json:
        write_json({"user": name, "done": what})
    else:
        write_line(f"user {name} {what}")


@user.command(cls=Verb, examples=["mqcore user add alice --users users"])
@click.argument("name")
@_users
@_password
@output_options
def add(name: str, users: str | None, password_file: str | None) -> None:
    """Add a user; the file is made if it is not there."""
    path = _file(users)
    _checked(name)
    if os.path.lexists(path) and name in read_users(path):
        raise CommandNotPossibleError(f"{path} has a user {name!r} already; `mqcore user passwd {name}` changes it")
    verifier = make_verifier(_password_of(name, password_file))
    with changing_users(path, may_be_new=True) as known:
        if name in known:
            raise CommandNotPossibleError(f"{path} has a user {name!r} already; `mqcore user passwd {name}` changes it")
        known[name] = verifier
    _done(name, "added")


@user.command(cls=Verb, examples=["mqcore user passwd alice --users users"])
@click.argument("name")
@_users
@_password
@output_options
def passwd(name: str, users: str | None, password_file: str | None) -> None:
    """Change a user's password; connections that are open stay."""
    path = _file(users)
    if name not in read_users(path):
        raise _unknown(path, name)
    verifier = make_verifier(_password_of(name, password_file))
    with changing_users(path) as known:
        if name not in known:
            raise _unknown(path, name)
        known[name] = verifier
    _done(name, "has another password")


@user.command(cls=Verb, examples=["mqcore user delete alice --users users"])
@click.argument("name")
@_users
@output_options
def delete(name: str, users: str | None) -> None:
    """Delete a user; a running broker ends the connections that are open within seconds."""
    path = _file(users)
    with changing_users(path) as known:
        if known.pop(name, None) is None:
            raise _unknown(path, name)
    _done(name, "deleted")


@user.command("list", cls=Verb, examples=["mqcore user list --users users"])
@_users
@output_options
def list_users(users: str | None) -> None:
    """List the users, with the rounds that their passwords were hashed by; nothing else of a verifier is shown."""
    known = read_users(_file(users))
    if current().json:
        rows = [{"name": name, "iterations": verifier.iterations} for name, verifier in sorted(known.items())]
        write_json({"users": rows})
    else:
        write_table([(name, verifier.iterations) for name, verifier in sorted(known.items())], ["user", "iterations"])


def _unknown(path: str, name: str) -> CommandNotPossibleError:
    return CommandNotPossibleError(f"{path} has no user {name!r}")
