"""A real Samba server on loopback, in a folder of its own, with its own accounts; nothing of the system's."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

PASSWORD: Final = "Correct-Horse 1ß"
STRANGER: Final = "nobody"  # an account that exists on every Debian and owns nothing
_PATIENCE_S: Final = 30.0

_SETTINGS: Final = {
    "server role": "standalone server",
    "workgroup": "VMKEEP",
    "netbios name": "HOST",
    "interfaces": "127.0.0.1/8",
    "bind interfaces only": "yes",
    "disable netbios": "yes",
    "load printers": "no",
    "printcap name": "/dev/null",
    "disable spoolss": "yes",
    "usershare max shares": "0",
    "server min protocol": "SMB2_02",
    "map to guest": "never",
    "log level": "1",
    "max log size": "0",
    "store dos attributes": "yes",
}


class Samba:
    """One server; ``settings`` go over the usual ones. Shares: ``C$`` and ``Closed``, both of ``content``."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.content = folder / "content"
        self.content.mkdir(parents=True)
        self.content.chmod(0o755)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._conf = folder / "smb.conf"
        self._write_configuration({name.replace("_", " "): value for name, value in settings.items()})
        for account in (self.user, STRANGER) if os.getuid() == 0 else (self.user,):
            self._run(
                # smbpasswd would do this for root only.
                "pdbedit",
                f"--configfile={self._conf}",
                "-a",
                "-t",
                account,
                given=f"{PASSWORD}\n{PASSWORD}\n",
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None
        with (self.folder / "smbd.out").open("ab") as out:
            self._process = subprocess.Popen(
                [_tool("smbd"), "--foreground", "--no-process-group", f"--configfile={self._conf}"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # instead of its own group: its children are ended with it
            )
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                alive = self._process.poll() is None
                if not alive or time.monotonic() > deadline:
                    self.kill()
                    said = (self.folder / "smbd.out").read_text("utf-8", "replace")[-4000:]
                    raise AssertionError(f"smbd does not answer on port {self.port}:\n{said}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """End the server and all its children at once, as a power cut would; safe to repeat."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(timeout=_PATIENCE_S)

    def restart(self) -> None:
        self.kill()
        self.start()

    def open_files(self) -> list[str]:
        """Return what the server holds open, as paths below the share: smbstatus says it, to root only."""
        if os.getuid() != 0:
            return sorted(self._descriptors())
        said = self._run("smbstatus", f"--configfile={self._conf}", "--locks", "--json")
        found: dict[str, Any] = json.loads(said)
        return sorted(
            entry["filename"]
            for entry in found.get("open_files", {}).values()
            for _ in entry["opens"]
            if entry["filename"] != "."
        )

    def _descriptors(self) -> Iterator[str]:
        """Yield the files below the share that the server's processes have open, as the kernel knows it."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self._process is None or os.getpgid(int(process.name)) != self._process.pid:
                    continue
                targets = [os.readlink(descriptor) for descriptor in (process / "fd").iterdir()]
            except OSError:
                continue  # it ended meanwhile
            for target in map(Path, targets):
                if target.is_relative_to(self.content) and target != self.content:
                    yield str(target.relative_to(self.content))

    def close_share(self, share: str) -> None:
        """Throw everybody out of a share, as an administrator can; returns before it is done."""
        self._run("smbcontrol", f"--configfile={self._conf}", "smbd", "close-share", share)

    def wait_until_nothing_is_open(self) -> None:
        """Wait until the server has noticed what was cut, and fail if it holds a file for ever."""
        deadline = time.monotonic() + _PATIENCE_S
        while found := self.open_files():
            assert time.monotonic() < deadline, f"still open: {found}"
            time.sleep(0.05)

    def _write_configuration(self, settings: dict[str, str]) -> None:
        own = {
            "smb ports": str(self.port),
            "passdb backend": f"tdbsam:{self.folder / 'passdb.tdb'}",
            "log file": str(self.folder / "log.%m"),
        }
        for name in ("private dir", "lock directory", "state directory", "cache directory", "pid directory",
                     "ncalrpc dir", "binddns dir"):  # fmt: skip
            place = self.folder / name.split()[0]
            place.mkdir(mode=0o700)
            own[name] = str(place)
        lines = ["[global]", *(f"{name} = {value}" for name, value in (_SETTINGS | own | settings).items())]
        for share, more in (("C$", ""), ("Closed", f"valid users = {self.user}x")):
            lines += [f"[{share}]", f"path = {self.content}", "read only = no", more]
        self._conf.write_text("\n".join(lines) + "\n", "utf-8")

    def _run(self, *command: str, given: str = "") -> str:
        done = subprocess.run(
            [_tool(command[0]), *command[1:]],
            input=given,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
        return done.stdout


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert found, f"{name} is missing: ./dev test installs it (Debian package samba)"
    return found
