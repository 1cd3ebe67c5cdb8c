"""Help texts are documentation: complete, and the same as docs/commands.md."""

from typing import Any

import pytest

from tools.commands_page import PAGE, commands, help_text, page

pytestmark = pytest.mark.quick

ALL = list(commands())


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: .venv/bin/python tools/commands_page.py --write"


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_option_is_explained(name: str, command: Any) -> None:
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        assert (getattr(parameter, "help", None) or "").strip(), f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize(
    ("name", "command"),
    [(n, c) for n, c in ALL if not hasattr(c, "commands")],
    ids=[n for n, c in ALL if not hasattr(c, "commands")],
)
def test_every_command_tells_its_promise_its_exit_codes_and_json(name: str, command: Any) -> None:
    text = help_text(name, command)
    promise = (command.help or "").strip().splitlines()[0]
    assert promise.endswith((".", ":")), f"{name}: {promise!r}"
    assert "Exit code" in text, f"{name} does not tell its exit codes"
    assert "--json" in text, f"{name} has no --json"
