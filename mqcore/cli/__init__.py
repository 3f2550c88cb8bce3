"""The command ``mqcore``. This module imports next to nothing, so that ``mqcore --version`` answers at once.

One file per verb; ``_root`` lists them, ``shell`` holds what they share. A plug-in's verb may use ``mqcore.cli.shell``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit status.

    0 done, 1 failed, 2 wrong usage or configuration, 3 refused by a promise, 4 not reached in time, 5 damage found,
    130 interrupted, 143 terminated.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments == ["--version"]:
            status = _print_version()
        else:
            from mqcore.cli._run import run

            status = run(arguments)
    except KeyboardInterrupt:  # while that was loaded, or while the end was told
        status = 130
    sys.exit(status)


def _print_version() -> int:
    from importlib.metadata import version

    from mqcore.cli._output import OutputFailedError, whole_output

    with whole_output():
        try:
            print(f"mqcore {version('mqcore')}")
        except OutputFailedError as error:
            print(f"mqcore: {error}", file=sys.stderr)
            return error.exit_status
        except BrokenPipeError:
            pass
    return 0
