"""What a remote shell on the host answers: the few commands that a backup asks for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from vmkeep_lab.cim import CommandResult
from vmkeep_lab.host.world import World

_NOT_RECOGNISED: Final = 1
HYPER_V_WRITER: Final = "{66841cd4-6ded-4f4b-8f17-fd23f8ddc3de}"


def run(world: World, command: str, arguments: Sequence[str]) -> CommandResult:
    """Run a command line; one that is not known fails as cmd.exe does."""
    words = [*command.split(), *arguments]
    name = words[0].lower().removesuffix(".exe") if words else ""
    known: Mapping[str, Callable[[World], CommandResult]] = {"hostname": _hostname, "ver": _version}
    if name == "vssadmin" and [each.lower() for each in words[1:]] == ["list", "writers"]:
        return _writers()
    if name in known:
        return known[name](world)
    text = f"'{command}' is not recognized as an internal or external command,\r\n"
    return CommandResult(stderr=text.encode(), exit_code=_NOT_RECOGNISED)


def _hostname(world: World) -> CommandResult:
    return CommandResult(f"{world.state.name}\r\n".encode())


def _version(world: World) -> CommandResult:
    return CommandResult(f"\r\nMicrosoft Windows [Version 10.0.{world.state.build}]\r\n".encode())


def _writers() -> CommandResult:
    """Return the writers of a healthy host (section 3.1: the sample's form)."""
    lines = [
        "vssadmin 1.1 - Volume Shadow Copy Service administrative command-line tool",
        "(C) Copyright 2001-2013 Microsoft Corp.",
        "",
        "Writer name: 'Microsoft Hyper-V VSS Writer'",
        f"   Writer Id: {HYPER_V_WRITER}",
        "   Writer Instance Id: {7a1c2f0e-4a43-4a0b-9f57-0d2f6f3f1f11}",
        "   State: [1] Stable",
        "   Last error: No error",
        "",
    ]
    return CommandResult("\r\n".join(lines).encode())
