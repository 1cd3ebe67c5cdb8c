"""Tell the process that owns a run from every other one, and whether it is gone."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

_ENDED: Final = "ended"


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other one, here and elsewhere."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": _machine_id(),
        "boot": _boot_id(),
        "namespace": _namespace(),
        "pid": pid,
        "start": _process_start(pid),
    }


def owner_is_gone(owner: Mapping[str, Any]) -> bool:
    """Tell whether a process is certainly dead; False when that cannot be known from here."""
    boot = _boot_id()
    if not boot or not owner.get("boot"):
        return False
    if owner["boot"] != boot:
        # Another boot: of this machine, then everything of before has ended; of another one
        # (which may have the same name), then only its lease tells.
        machine = _machine_id()
        return bool(machine) and (owner.get("host"), owner.get("machine")) == (socket.gethostname(), machine)
    if owner.get("namespace") != _namespace():
        return False  # another container: its process numbers mean nothing here
    return _is_gone(int(owner.get("pid", 0)), str(owner.get("start")))


def owner_is_living(owner: Mapping[str, Any]) -> bool:
    """Tell whether a process of this machine, other than this one, certainly lives."""
    boot, namespace, pid = _boot_id(), _namespace(), int(owner.get("pid", 0))
    if not boot or not namespace or (owner.get("boot"), owner.get("namespace")) != (boot, namespace):
        return False
    return pid != os.getpid() and _process_start(pid) == owner.get("start") != ""


def _is_gone(pid: int, start: str) -> bool:
    found = _process_start(pid)
    if found:
        return found != start  # another process has its number now
    # /proc may hide the processes of other users (mount option hidepid): ask the kernel.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _machine_id() -> str:
    # A name is not enough: two machines may have the same one.
    try:
        text = Path("/etc/machine-id").read_text("ascii").strip()
    except OSError:
        return ""
    return blake3(b"vmkeep run owner " + text.encode()).hexdigest(length=16)  # the id itself is private


def _boot_id() -> str:
    if os.name == "nt":
        # Leases decide alone. A folder \\proc there means nothing, and os.kill is no question: its
        # signal 0 is Ctrl+C.
        return ""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""  # not Linux: leases decide alone


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return ""
    # The name in parentheses may hold spaces; fields 3 and 22 of the whole are the state and the start time.
    fields = stat.rpartition(")")[2].split()
    # A process that was killed keeps its number until its parent, perhaps nobody, asks for it.
    return _ENDED if fields[0] in ("Z", "X") else fields[19]
