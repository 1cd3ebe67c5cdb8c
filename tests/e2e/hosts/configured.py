"""The program with a configuration that names a lab, and the smallest scenario."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.e2e.command import Result, Vmkeep
from tests.lab_process import Lab, Served

# Starts a lab of a scenario when it is first asked for.
Labs = Callable[..., Lab]
SMALL = r"""
title = "one VM that is off"

[host]
name = "HV"
{host}

[[vm]]
name = "{name}"
state = "off"
folder = 'C:\VMs\one'

[[vm.disk]]
size_mib = 8
used_mib = 1
"""
ONE: Final = SMALL.format(host="build = 20348", name="one")


class Hosts:
    """The program with a configuration of its own; no password of a lab may ever show."""

    def __init__(self, folder: Path) -> None:
        self.program = Vmkeep(folder, folder / "no repository")
        self.file = folder / "config.toml"
        self.secrets: list[bytes] = []
        self.environment: dict[str, str] = {}

    def configure(self, lab: Served, **changes: Any) -> None:
        """Write the lab's block, with what differs; None leaves a key out."""
        keys = ("address", "port", "transport", "auth", "user", "password_file", "paths", "ca_file")
        block = {key: lab.facts[key] for key in keys if key in lab.facts} | changes
        self.secrets.append(lab.password.encode())
        self.write("".join(f"{key} = {_toml(value)}\n" for key, value in block.items() if value is not None))

    def write(self, text: str) -> None:
        self.file.write_text(f"[hosts.lab]\n{text}", "utf-8")

    def __call__(self, *arguments: object) -> Result:
        result = self.program(*arguments, env={"VMKEEP_CONFIG": str(self.file), **self.environment})
        for secret in self.secrets:
            assert secret not in result.out + result.err.encode(), "a password was printed"
        return result

    def check(self, *options: object) -> tuple[int, dict[str, dict[str, Any]], Result]:
        """Return how `hosts check` ended, its checks by name, and all it printed."""
        result = self("hosts", "check", "lab", "--json", *options)
        document = json.loads(result.text)
        assert document["exit_code"] == result.code
        assert document["ok"] == (result.code == 0)
        return result.code, {check["name"]: check for check in document["checks"]}, result


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)
