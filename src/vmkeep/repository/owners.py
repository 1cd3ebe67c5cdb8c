"""Tell the process that owns a run from every other one, and whether it is gone."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_ENDED: Final = "ended"


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other one, here and elsewhere."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "namespace": _namespace(),
        "pid": pid,
        "start": _process_start(pid),
    }


def owner_is_gone(owner: Mapping[str, Any]) -> bool:
    """Tell whether a process is certainly dead; False when that cannot be known from here."""
    boot = _boot_id()
    # Another boot may be this machine's last one or a living twin's: machines made from one image
    # share their name and /etc/machine-id. Only the lease can tell.
    if not boot or owner.get("boot") != boot:
        return False
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
