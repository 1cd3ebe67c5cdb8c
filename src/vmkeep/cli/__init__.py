"""The command line: parse, call the rooms, render, end with the right exit code.

The only room that prints. Rooms are imported inside the commands, so that
``--help`` is quick; nothing of the command line reaches past this room.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the process's exit code."""
    import vmkeep.cli.plain_values  # noqa: F401 - for its effect on typer
    from vmkeep.cli.app import app
    from vmkeep.cli.frame import run_app

    return run_app(app, sys.argv[1:] if arguments is None else list(arguments))
