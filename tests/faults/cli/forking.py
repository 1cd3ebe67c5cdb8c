"""Run vmkeep's command line in processes that can be killed, forked from one that has imported everything.

``python -m tests.faults.cli.forking CONFIG`` reads one order a line (JSON, see :class:`Order`) and answers
each with two lines: the process, and how it ended. Nothing of a killed process lives on.
"""

import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, NoReturn, TypeVar

from tests.faults.stores import MUTATING, Request, WrappedStore
from tests.forked import VMKEEP
from tests.lab_captures import QuickClock
from vmkeep.cli import frame, main
from vmkeep.cli.configuration import load_configuration
from vmkeep.clock import SystemClock
from vmkeep.objectstore.address import open_store
from vmkeep.objectstore.store import Store
from vmkeep.repository import owners

_T = TypeVar("_T")


@dataclass(frozen=True)
class Order:
    """One command line. ``store_port``: the gate that counts its requests to the store; 0 for none.

    ``ahead_s``: how far this process's clock is ahead. ``machine``: the boot id of
    the machine it seems to run on; empty for this one. ``speed``: what part of
    each pause passes; a sweep waits a minute for what a dead run may have asked for.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    out: str
    store_port: int = 0
    ahead_s: float = 0.0
    machine: str = ""
    speed: float = 40.0


class CountedStore(WrappedStore):
    """Asks at a gate before each request that changes the store, and tells it after."""

    def __init__(self, inner: Store, gate: socket.socket) -> None:
        super().__init__(inner)
        self._gate = gate
        self._answers = gate.makefile("rb")
        self._lock = threading.Lock()

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        if request.verb not in MUTATING:
            return call()
        number = self._ask(f"before {request.verb} {request.name}")
        result = call()
        self._ask(f"after {number}")
        return result

    def _ask(self, line: str) -> str:
        with self._lock:
            self._gate.sendall(f"{line}\n".encode())
            return self._answers.readline().decode().strip()


def _obey(order: Order) -> NoReturn:
    """Be the command; never returns."""
    code = 1
    try:
        for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
            name = os.devnull if number == 0 else f"{order.out}.{number}"
            opened = os.open(name, flags | os.O_CREAT | os.O_TRUNC * (number > 0), 0o600)
            os.dup2(opened, number)
            os.close(opened)
        os.environ.clear()
        os.environ.update(order.environment)
        _live_fast(order.speed, order.ahead_s)
        if order.machine:
            setattr(owners, "_boot_id", lambda: order.machine)  # noqa: B010
        if order.store_port:
            gate = socket.create_connection(("127.0.0.1", order.store_port))
            setattr(frame, "open_store", lambda address: CountedStore(open_store(address), gate))  # noqa: B010
        code = main(order.arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - a child must never go on as the parent
        traceback.print_exc()
    finally:
        os._exit(code)


def _live_fast(speed: float, ahead_s: float) -> None:
    """Let a pause cost a part of itself, and count as the whole."""
    clock = QuickClock(speed)
    quick: dict[str, Any] = {
        "now": lambda _: clock.now() + timedelta(seconds=ahead_s),
        "monotonic": lambda _: clock.monotonic(),
        "sleep": lambda _, seconds: clock.sleep(seconds),
    }
    for name, method in quick.items():
        setattr(SystemClock, name, method)


def serve(config: str) -> None:
    """Obey one order after the other; reading ``config`` once loads what every command loads."""
    for name in VMKEEP.imports:
        import_module(name)
    load_configuration({"VMKEEP_CONFIG": config})
    print("ready", flush=True)
    for line in sys.stdin:
        order = Order(**json.loads(line))
        child = os.fork()
        if not child:
            _obey(order)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
