"""The command line: parse, call the rooms, render, end with the right exit code.

The only room that prints. Rooms are imported inside the commands, so that
``--help`` is quick; nothing of the command line reaches past this room.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the process's exit code."""
    previous = {number: signal.signal(number, _end_at_once) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        import vmkeep.cli.plain_values  # noqa: F401 - for its effect on typer
        from vmkeep.cli.app import app
        from vmkeep.cli.frame import run_app
        from vmkeep.cli.logs import heard

        with heard():
            return run_app(app, sys.argv[1:] if arguments is None else list(arguments))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    # Importing takes a while; nothing is held or printed yet, and a traceback would tell nobody anything.
    os._exit(128 + number)
