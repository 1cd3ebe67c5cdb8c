"""Run the command line with something happening in the middle of it.

``python -m tests.faults.cli.meeting ORDER ARG...``: at the ``nth`` request ``verb`` of the store whose name
begins with ``prefix``, ``action`` is done with ``what`` (ORDER is JSON with these keys). Waiting for a run
from outside would meet it too early or too late on a busy machine.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.faults.stores import Request, WrappedStore
from vmkeep.cli import frame, main
from vmkeep.objectstore.address import open_store
from vmkeep.objectstore.store import Store

_T = TypeVar("_T")


def act(action: str, what: str | int) -> None:
    match action, what:
        case "signal", int():
            signal.raise_signal(signal.Signals(what))
        case "stop", _:
            os.kill(os.getpid(), signal.SIGSTOP)
        case "touch", str():
            os.utime(what)
        case "grow", str():
            with Path(what).open("ab") as file:
                file.write(bytes(512))
        case "replace", str():
            Path(what + ".new").write_bytes(Path(what).read_bytes())
            Path(what + ".new").rename(what)
        case "remove", str():
            Path(what).unlink()
        case _:
            raise ValueError(action)


class MeetingStore(WrappedStore):
    """Does something once, on the way to the request it waits for."""

    def __init__(self, inner: Store, verb: str, prefix: str, nth: int, action: str, what: str | int) -> None:
        super().__init__(inner)
        self._verb, self._prefix, self._left = verb, prefix, nth
        self._action, self._what = action, what

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        if request.verb == self._verb and request.name.startswith(self._prefix):
            self._left -= 1
            if self._left == 0:
                act(self._action, self._what)
        return call()


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    vars(frame)["open_store"] = lambda address, **more: MeetingStore(open_store(address, **more), **order)
    sys.exit(main(sys.argv[2:]))
