"""``mqcore completion``: the script that completes verbs and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from mqcore.cli.shell import Verb, write_line

__all__ = ["command"]


@click.command(
    "completion",
    cls=Verb,
    examples=[
        'eval "$(mqcore completion bash)"          # in ~/.bashrc',
        'eval "$(mqcore completion zsh)"           # in ~/.zshrc',
        "mqcore completion fish > ~/.config/fish/completions/mqcore.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
def command(shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish."""
    from mqcore.cli._root import root

    kind = get_completion_class(shell)
    assert kind is not None
    write_line(kind(root, {}, "mqcore", "_MQCORE_COMPLETE").source())
