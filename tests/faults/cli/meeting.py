"""Run the command line with something happening in the middle of it.

The first argument is an order, JSON with these keys: at the ``nth`` request ``verb`` of the store whose name
begins with ``prefix``, ``action`` is done with ``what``. Waiting for a run from outside would meet it too
early or too late on a busy machine. ``after``: requests count only when one of the same verb has gone to a
name that begins so. ``elsewhere``: the machine is another one, which will not come back: what
tells its processes from those of any other machine is of its own, and its day is an hour ago, so that
whoever looks now finds that its claims have ended.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from tests.faults.stores import Request, WrappedStore
from vmkeep import cli
from vmkeep.cli import frame
from vmkeep.clock import SystemClock
from vmkeep.objectstore.address import open_store
from vmkeep.objectstore.store import Store
from vmkeep.repository import owners

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

    def __init__(
        self, inner: Store, verb: str, prefix: str, nth: int, action: str, what: str | int, after: str = ""
    ) -> None:
        super().__init__(inner)
        self._verb, self._prefix, self._left, self._after = verb, prefix, nth, after
        self._action, self._what = action, what

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        if request.verb == self._verb and self._after:
            self._after = "" if request.name.startswith(self._after) else self._after
        elif request.verb == self._verb and request.name.startswith(self._prefix):
            self._left -= 1
            if self._left == 0:
                act(self._action, self._what)
        return call()


def main() -> int:
    order = json.loads(sys.argv[1])
    if order.pop("elsewhere", False):
        vars(owners)["_boot_id"] = lambda: "of another machine"
        SystemClock.now = lambda self: datetime.now(UTC) - timedelta(hours=1)  # type: ignore[method-assign]
    vars(frame)["open_store"] = lambda address, **more: MeetingStore(open_store(address, **more), **order)
    return cli.main(sys.argv[2:])
