"""Be forked for every start of a program; tests/forked.py runs this text with ``python -c``.

Nothing but the program's own modules is imported before the fork, and nothing of it is run. A child ends
like an interpreter, but for taking its modules apart: what it left open shows on its standard error.
"""

import atexit
import gc
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

_LONGEST = 1 << 20


def serve(control: socket.socket, module: str, imports: Sequence[str]) -> None:
    """Answer each order with the process that obeys it, until there are none."""
    for name in imports:
        import_module(name)
    gc.collect()
    gc.freeze()
    control.sendall(b"ready\n")
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, _LONGEST, 3)
        if not text:
            return
        while not text.endswith(b"\n"):
            text += control.recv(_LONGEST)
        pid = _fork_twice()
        if not pid:
            control.close()
            _obey(module, json.loads(text), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(b"%d\n" % pid)


def _fork_twice() -> int:
    """Return the id of a process that is a child of our own parent by now, which adopts orphans; 0 in it."""
    reader, writer = os.pipe()
    between = os.fork()
    if not between:
        pid = os.fork()
        if pid:
            os.write(writer, b"%d" % pid)
            os._exit(0)
        os.close(reader)
        os.close(writer)
        return 0
    os.close(writer)
    os.waitpid(between, 0)
    with open(reader, "rb") as answer:
        return int(answer.read())


def _obey(module: str, order: Mapping[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Be the program; never returns."""
    code = 1
    try:
        _become(order, descriptors)
        code = _code_of(import_module(module).main)
        _finish()
    except BaseException:  # noqa: BLE001 - a child must never go on as the parent
        traceback.print_exc()
    finally:
        os._exit(code)


def _code_of(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    return 1


def _finish() -> None:
    """Do what ends an interpreter, in its order, and show what was left open."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, ends pools of them
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    gc.collect()


def _become(order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        # What the interpreter made at its start knows whether the stream of then could be sought in.
        old = getattr(sys, name)
        new = open(number, old.mode, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
        new.reconfigure(line_buffering=name == "stderr")
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    sys.argv[1:] = order["arguments"]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as ours:
        serve(ours, sys.argv[2], sys.argv[3:])
