"""The door for tests: a local socket, one JSON object a line in each direction.

``{"do": "step", "vm": "web-server", "writes": 10}`` is answered with ``{"ok": true, ...}`` or
``{"ok": false, "error": "..."}``. No client of the host's network side can reach it.
"""

import json
import socketserver
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any, Final

from vmkeep_lab.host import layers, merges
from vmkeep_lab.host.codes import Power
from vmkeep_lab.host.faults import Fault
from vmkeep_lab.host.provider import Host
from vmkeep_lab.host.records import Misfit, plain, read
from vmkeep_lab.host.services import power
from vmkeep_lab.host.state import Disk, Vm

SOCKET: Final = "control.sock"
_LONGEST_PATH: Final = 100  # of a Unix socket's address, with room to spare
_LONGEST_LINE: Final = 1 << 20
Request = Mapping[str, Any]
Verb = Callable[[Request], dict[str, Any]]
_SCRIBBLE: Final = b"changed behind the host's back"


class Control:
    """Answers requests about one host; each runs with the host's lock held.

    ``more``: verbs of what stands around the host, the wire's for one.
    """

    def __init__(self, host: Host, more: Mapping[str, Verb]) -> None:
        self._host = host
        self._verbs: Mapping[str, Verb] = {
            "state": self._state,
            "step": self._step,
            "pause": self._pause,
            "resume": self._resume,
            "push": self._push,
            "fail": self._fail,
            "heal": self._heal,
            "guest": self._guest,
            "power": self._power,
            "restart": self._restart,
            "handles": self._handles,
            "merge": self._merge,
            "rename": self._rename,
            "delete": self._delete,
            "free": self._free,
            "lose-tracking": self._lose_tracking,
            "scribble": self._scribble,
            "replicate": self._replicate,
            **more,
        }

    def answer(self, line: bytes) -> dict[str, Any]:
        """Return the answer to one request; what is wrong with it is part of the answer."""
        try:
            request = json.loads(line)
            verb = self._verbs.get(request["do"])
            if verb is None:
                return _refusal(f"no {request['do']!r}; there are {', '.join(self._verbs)}")
            with self._host.lock:
                result = verb(request)
                self._host.advance()
        except (KeyError, TypeError, ValueError, LookupError, Misfit) as error:
            return _refusal(f"{type(error).__name__}: {error}")
        return {"ok": True, **result}

    # --- the verbs --------------------------------------------------------------------------

    def _state(self, _: Request) -> dict[str, Any]:
        """Everything the host remembers, and its jobs."""
        world = self._host.world
        now = world.clock.monotonic()
        jobs = [
            {
                "id": job.id,
                "type": int(job.type),
                "vm": job.vm_id,
                "state": int(job.state(now)),
                "code": job.code,
            }
            for job in world.jobs.all()
        ]
        return {"state": plain(world.state), "jobs": jobs}

    def _step(self, request: Request) -> dict[str, Any]:
        """Let a guest write, now and exactly so much."""
        self._host.guests.step(self._vm(request), int(request.get("writes", 1)))
        return {}

    def _pause(self, _: Request) -> dict[str, Any]:
        """Stop all guests' own writing."""
        self._host.guests.is_paused = True
        return {}

    def _resume(self, _: Request) -> dict[str, Any]:
        """Let the guests write on."""
        self._host.guests.is_paused = False
        return {}

    def _push(self, request: Request) -> dict[str, Any]:
        """Let time pass at once."""
        self._host.world.clock.push(float(request["seconds"]))
        return {}

    def _fail(self, request: Request) -> dict[str, Any]:
        """Let something go wrong: the fields of ``faults.Fault``; the VM by name or id."""
        given = {key: each for key, each in request.items() if key != "do"}
        if given.get("vm"):
            given["vm"] = self._vm(request).id
        self._host.world.faults.add(read(Fault, given, "fault"))
        return {}

    def _heal(self, _: Request) -> dict[str, Any]:
        """Take back the faults that have not struck yet."""
        self._host.world.faults.waiting.clear()
        return {}

    def _guest(self, request: Request) -> dict[str, Any]:
        """Set what a guest is like: ``set`` holds fields of ``state.Guest``."""
        vm = self._vm(request)
        changed = {**plain(vm.guest), **request["set"]}
        vm.guest = read(type(vm.guest), changed, "guest")
        self._host.world.changed = True
        return {}

    def _power(self, request: Request) -> dict[str, Any]:
        """Give a VM a state: running, off, saved, paused."""
        power.turn(self._host.world, self._vm(request), Power[str(request["to"]).upper()])
        return {}

    def _restart(self, request: Request) -> dict[str, Any]:
        """Restart the host; ``clean`` false is a power cut."""
        self._host.restart(clean=bool(request.get("clean", True)))
        return {}

    def _handles(self, _: Request) -> dict[str, Any]:
        """Who has a disk file of the host open."""
        world = self._host.world
        files = [
            world.places.real(layer.path)
            for vm in world.state.vms
            for disk in vm.file_disks
            for layer in disk.layers
        ]
        return {"handles": world.handles.holders(files)}

    def _merge(self, request: Request) -> dict[str, Any]:
        """Try the merges a VM owes again, without waiting."""
        world, vm = self._host.world, self._vm(request)
        merges.stop(world, vm)
        merges.resume(world, vm)
        return {"owed": len(vm.merges)}

    def _rename(self, request: Request) -> dict[str, Any]:
        """Rename a VM, as an administrator does in the middle of a run."""
        vm = self._vm(request)
        vm.name = str(request["to"])
        self._host.world.changed = True
        return {}

    def _delete(self, request: Request) -> dict[str, Any]:
        """Delete a VM, as an administrator does in the middle of a run; its files stay."""
        vm = self._vm(request)
        merges.stop(self._host.world, vm)
        self._host.world.state.vms.remove(vm)
        self._host.world.changed = True
        return {}

    def _free(self, request: Request) -> dict[str, Any]:
        """Let the drives claim so many free bytes; null: what is really free."""
        value = request["bytes"]
        self._host.world.free_bytes = None if value is None else int(value)
        return {}

    def _lose_tracking(self, request: Request) -> dict[str, Any]:
        """Forget all RCT ids of a VM's disks, as when it was moved without its tracking files."""
        for disk in self._vm(request).file_disks:
            self._host.world.media.lose_tracking(disk)
        return {}

    def _scribble(self, request: Request) -> dict[str, Any]:
        """Change a frozen file behind everybody's back, at ``offset`` of the file (default: its middle)."""
        vm = self._vm(request)
        disk = self._disk(vm, request)
        path = layers.chain(disk, disk.leaf)[int(request.get("below", 1))]
        place = self._host.world.places.real(path)
        offset = int(request.get("offset", place.stat().st_size // 2))
        with place.open("r+b") as out:
            out.seek(offset)
            out.write(_SCRIBBLE)
        return {"file": path, "offset": offset}

    def _replicate(self, request: Request) -> dict[str, Any]:
        """Set a VM's replication: mode and state (section 1.1)."""
        vm = self._vm(request)
        vm.replication, vm.replication_state = int(request["mode"]), int(request["state"])
        self._host.world.changed = True
        return {}

    # --- finding ------------------------------------------------------------------------------

    def _vm(self, request: Request) -> Vm:
        wanted = str(request["vm"])
        for vm in self._host.world.state.vms:
            if wanted in (vm.name, vm.id):
                return vm
        raise LookupError(f"no VM {wanted!r}")

    def _disk(self, vm: Vm, request: Request) -> Disk:
        slot = request.get("slot")
        return vm.file_disks[0] if slot is None else vm.disk(str(slot))


def _refusal(why: str) -> dict[str, Any]:
    return {"ok": False, "error": why}


class _Line(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        while line := self.rfile.readline(_LONGEST_LINE):
            if isinstance(server, ControlServer):
                self.wfile.write(json.dumps(server.control.answer(line)).encode() + b"\n")


class ControlServer(socketserver.ThreadingUnixStreamServer):
    """Serves a ``Control`` at a socket that only its owner can reach; ``address`` is where."""

    daemon_threads = True

    def __init__(self, host: Host, folder: Path, more: Mapping[str, Verb] | None = None) -> None:
        self.control: Final = Control(host, more or {})
        place = folder / SOCKET
        self._made: Path | None = None
        if len(str(place)) > _LONGEST_PATH:
            self._made = Path(tempfile.mkdtemp(prefix="vmkeep-lab-"))
            place = self._made / SOCKET
        place.unlink(missing_ok=True)
        self.address: Final = str(place)
        super().__init__(self.address, _Line)
        place.chmod(0o600)

    def server_close(self) -> None:
        """Close the socket and take its name away, and the folder that was made for it."""
        super().server_close()
        Path(self.address).unlink(missing_ok=True)
        if self._made is not None:
            self._made.rmdir()

    def start(self) -> None:
        """Answer in a thread of its own until ``shutdown``."""
        Thread(target=self.serve_forever, name="control", daemon=True).start()
