"""What a run of a host's VM says: how much with -q and -v, why a level is unproven, why all was read."""

import json
import re

import pytest

from tests.e2e.hosts.configured import Hosts
from tests.e2e.hosts.protecting import clear
from tests.lab_process import Lab

pytestmark = pytest.mark.usefixtures("office")

_HTTP = "uses http"


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if _HTTP not in line]


def test_quiet_says_nothing_when_all_is_well_but_that_http_is_weak(hosts: Hosts) -> None:
    """docs/rights.md: http is warned of at each use."""
    for vms in (("--vm", "web"), ("--vm", "web", "--vm", "mail")):
        result = hosts("backup", "hyperv://lab", *vms, "-q")
        assert (result.code, result.text, said(result.err)) == (0, "", [])
        (warning,) = result.err.splitlines()
        assert warning.startswith("vmkeep: warning: [hosts.lab] uses http: ")
    assert hosts("sweep", "hyperv://lab", "-q").text == ""


def test_quiet_tells_what_went_wrong_and_how_many_are_protected(hosts: Hosts, office: Lab) -> None:
    office.control.ask("fail", at="create-call", vm="web", code=32768)
    result = hosts("backup", "hyperv://lab", "--vm", "web", "--vm", "mail", "--quiet")
    assert result.code == 1, result
    assert result.text.splitlines() == ["1 of 2 VMs are protected.", "  not protected: web"]
    error, hint = said(result.err)
    assert re.match(
        r"vmkeep: web: NOT PROTECTED: cannot create the checkpoint of the VM 'web' \([0-9a-f-]{36}\)", error
    )
    assert "event log" in hint


def test_verbose_tells_each_step_and_how_long_it_took(hosts: Hosts) -> None:
    result = hosts("backup", "hyperv://lab/web", "-v")
    assert result.code == 0, result
    steps = said(result.err)
    assert all(re.fullmatch(r" *[0-9]+\.[0-9] s  \S.*", line) for line in steps), steps
    told = [line.split(" s  ", 1)[1] for line in steps]
    order = [
        "web: take the facts and plan",
        "web: create the checkpoint",
        "reading web",
        "reading again",
        "sealing web",
        "web: convert the checkpoint to a reference point",
    ]
    assert [step for step in told if step in order] == order
    assert "web: restore point" in result.text
    assert said(hosts("backup", "hyperv://lab/web", "-v", "--json").err) == []


def test_show_says_why_a_level_is_unproven_and_why_all_was_read(hosts: Hosts, office: Lab) -> None:
    office.control.ask("fail", at="convert-call", vm="web", code=32768)
    first = hosts("backup", "hyperv://lab/web")
    assert first.code == 3, first
    unproven, next_run = said(first.err)
    assert "promised as application and is proven as crash" in unproven and "32768" in unproven
    assert next_run.endswith("The next run reads all of the VM; what differs is stored.")
    shown = hosts("show", "web").text.splitlines()
    (why,) = [line for line in shown if line.startswith("  not proven ")]
    assert "application: " in why and "32768" in why
    office.control.ask("heal")
    assert hosts("backup", "hyperv://lab/web").code == 0
    shown = hosts("show", "web").text.splitlines()
    assert not [line for line in shown if line.startswith("  not proven ")]
    (full,) = [line for line in shown if line.startswith("  read in full ")]
    assert full.endswith("(rct-no-baseline)")
    evidence = json.loads(hosts("show", "web", "--json").text)["evidence"]
    assert set(evidence["hold"]["read_all"].values()) == {"rct-no-baseline"}


@pytest.mark.parametrize(
    ("code", "says", "command"),
    [
        (1, "no VM called 'WEB'; did you mean 'web'?", ("backup", "hyperv://lab/WEB")),
        (1, "no VM called 'Mial'; did you mean 'mail'?", ("backup", "hyperv://lab", "--vm", "Mial")),
        (1, "no VM called 'Web'; did you mean 'web'?", ("sweep", "hyperv://lab/Web")),
        (2, "did you mean 'lab'?", ("backup", "hyperv://Lab/web")),
        (2, "did you mean 'lab'?", ("hosts", "check", "LAB")),
    ],
)
def test_a_name_that_is_nearly_right(hosts: Hosts, code: int, says: str, command: tuple[str, ...]) -> None:
    clear(hosts(*command), code, says)


def test_a_point_whose_name_is_nearly_right(hosts: Hosts) -> None:
    assert hosts("backup", "hyperv://lab/attic").code == 0
    clear(hosts("show", "Attic"), 1, "called 'Attic'; did you mean 'attic'?")
    clear(hosts("restore", "atic@latest", "--to", "x"), 1, "did you mean 'attic@latest'?")
    assert "did you mean 'attic'?" in hosts("points", "ATTIC").text
    clear(hosts("show", "nobody"), 1, "no restore point is called 'nobody'.")


@pytest.mark.parametrize("option", ["--repo", "-r"])
def test_a_repository_is_named_without_an_option_by_its_own_commands(hosts: Hosts, option: str) -> None:
    result = hosts("repo", "check", option, "somewhere")
    clear(result, 2, f"No such option: {option}.")
    assert "`vmkeep repo check REPO`" in result.err
