"""A host or a command line that will not do: one sentence, the next step, the right code, nothing touched."""

import http.server
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import CANARY
from tests.e2e.hosts.configured import ONE, SMALL, Hosts
from tests.e2e.hosts.protecting import (
    by_vm,
    clear,
    points,
    restored,
    things,
    while_held,
)
from tests.e2e.hosts.test_hosts_check import _Nonsense
from tests.lab_process import Lab, running_lab

ALL = ("backup", "hyperv://lab", "--all")


def test_a_login_that_is_refused_is_tried_once(hosts: Hosts, office: Lab, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text(f"{CANARY}\n")
    (tmp_path / "wrong").chmod(0o600)
    hosts.configure(office, password_file="wrong")
    before = things(office)
    result = hosts(*ALL)
    clear(result, 13, "127.0.0.1")
    assert "locking the account" in result.err
    assert things(office) == before


def test_a_host_that_is_not_trusted(hosts: Hosts, tmp_path: Path) -> None:
    with running_lab(ONE, tmp_path / "host", "--https") as lab:
        hosts.configure(lab, ca_file=None)
        result = hosts(*ALL)
        clear(result, 13, "certificate")
        assert "ca_file" in result.err
        assert not any(vm.checkpoints or vm.reference_points for vm in things(lab).values())


def test_nobody_listens(hosts: Hosts, office: Lab, free_port: int) -> None:
    hosts.configure(office, port=free_port)
    for command in (ALL, ("sweep", "hyperv://lab")):
        clear(hosts(*command), 13, str(free_port))


def test_another_service_answers(hosts: Hosts, office: Lab) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Nonsense) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        hosts.configure(office, port=server.server_port)
        result = hosts(*ALL)
        server.shutdown()
        thread.join()
    clear(result, 13, str(server.server_port))


def test_an_account_that_may_not_even_look(hosts: Hosts, office: Lab) -> None:
    before = things(office)
    office.control.ask("disturb", effect="fault", action="Enumerate", code=5, times=0)
    clear(hosts(*ALL), 13, "Read (GR)", "Remote Enable")
    assert things(office) == before


def test_an_envelope_that_is_too_small(hosts: Hosts, office: Lab) -> None:
    before = things(office)
    office.control.ask("disturb", effect="fault", action="Enumerate", code=2150858824, times=0)
    result = hosts(*ALL)
    clear(result, 1, "does not fit into an envelope")
    assert "MaxEnvelopeSizekb" in result.err
    assert things(office) == before


def test_a_clock_that_is_wrong_harms_nothing(hosts: Hosts, tmp_path: Path) -> None:
    """What the host says of the time tells its own events apart; a point bears the time of this machine."""
    with running_lab(ONE, tmp_path / "host") as lab:
        lab.control.ask("push", seconds=3600)
        hosts.configure(lab)
        started = datetime.now(UTC)
        result = hosts(*ALL, "--json")
        assert result.code == 0, result
        vms, _ = by_vm(result)
        (vm,) = vms.values()
        taken = datetime.fromisoformat(vm["time"])
        assert started - timedelta(seconds=1) <= taken <= datetime.now(UTC)
        restored(hosts, lab, vm["id"], tmp_path / "back")


@pytest.mark.parametrize(
    ("host", "more", "says"),
    [
        ('edition = "client"', "", "desktop edition"),
        ("build = 20348", 'setting = "disabled"', "switched off"),
    ],
)
def test_what_cannot_be_protected_is_refused(
    hosts: Hosts, tmp_path: Path, host: str, more: str, says: str
) -> None:
    scenario = SMALL.format(host=host, name="one").replace('state = "off"', f'state = "off"\n{more}')
    with running_lab(scenario, tmp_path / "host") as lab:
        hosts.configure(lab)
        clear(hosts(*ALL), 1, "refused", says)
        assert not any(vm.checkpoints or vm.reference_points for vm in things(lab).values())


@pytest.mark.parametrize(
    ("code", "says", "arguments"),
    [
        (1, "no VM called 'nobody'; it has 'attic', 'mail', 'web'", ("hyperv://lab/nobody",)),
        (1, "no VM called 'nowhere'", ("hyperv://lab", "--vm", "nowhere", "--vm", "nobody")),
        (2, "no VM was chosen", ("hyperv://lab",)),
        (2, "contradict", ("hyperv://lab", "--all", "--vm", "mail")),
        (2, "contradict", ("hyperv://lab/mail", "--all")),
        (2, "no VM behind the slash", ("hyperv://lab/", "--all")),
        (2, "names no host", ("hyperv://",)),
        (2, "no host is called 'other'", ("hyperv://other", "--all")),
        (2, "such as 90m, 12h or 2d; not 'soon'", ("hyperv://lab/mail", "--max-hold", "soon")),
        (2, "copy or full; not 'maybe'", ("hyperv://lab/mail", "--guest-backup", "maybe")),
        (2, "consistency policy", ("hyperv://lab/mail", "--consistency", "required:perfect")),
        (2, "--as, --changes and --parent are for", ("hyperv://lab/mail", "--as", "post")),
        (2, "exists; a trace goes into a new file", ("hyperv://lab/mail", "--record", "config.toml")),
    ],
)
def test_what_cannot_be_meant(
    hosts: Hosts, office: Lab, code: int, says: str, arguments: tuple[str, ...]
) -> None:
    kept = hosts.file.read_bytes()
    before = things(office)
    clear(hosts("backup", *arguments), code, says)
    assert things(office) == before
    assert hosts.file.read_bytes() == kept
    assert points(hosts) == []


def test_no_configuration_at_all(hosts: Hosts) -> None:
    clear(hosts(*ALL), 2, "config.toml")


@pytest.mark.parametrize(
    ("code", "says", "env"),
    [
        (10, "no repository", {"VMKEEP_REPO": "nowhere"}),
        (12, "password is wrong", {"VMKEEP_PASSWORD": f"{CANARY}x"}),
    ],
)
def test_the_repository_is_opened_before_the_host(
    hosts: Hosts, office: Lab, code: int, says: str, env: dict[str, str | None]
) -> None:
    before = things(office)
    clear(hosts.program(*ALL, env={"VMKEEP_CONFIG": str(hosts.file), **env}), code, says)
    assert things(office) == before


def test_two_runs_at_once(hosts: Hosts, office: Lab) -> None:
    """The second ends at once and harms the first in nothing."""
    later: list[Any] = []
    one = ("backup", "hyperv://lab/mail")
    first = while_held(hosts, office, lambda _: later.append(hosts(*one)), *one)
    clear(later[0], 11, "mail")
    assert first.code == 0, first
    assert "mail: restore point" in first.text


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_lets_the_vm_go(hosts: Hosts, office: Lab, name: str, code: int) -> None:
    before = things(office)

    interrupt = lambda process: process.send_signal(getattr(signal, name))  # noqa: E731
    result = while_held(hosts, office, interrupt, "backup", "hyperv://lab/web")
    clear(result, code, "interrupted; nothing of it stays open or held")
    assert things(office) == before
    assert points(hosts) == []
    assert hosts("backup", "hyperv://lab/web").code == 0
