"""`hosts check` against the lab, another process: what is well, and what is missing, is said and counted."""

import http.server
import json
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import CANARY
from tests.e2e.hosts.configured import ONE, SMALL, Hosts, Labs
from tests.e2e.test_names import unsteered
from tests.fakes.samba import PASSWORD, Samba
from tests.lab_process import Lab, running_lab

ENTRY = ("reach", "trust", "protocol", "login")


def states(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {check["state"] for check in checks.values()}


@contextmanager
def disturbed(lab: Lab, **rule: object) -> Iterator[None]:
    lab.control.ask("disturb", times=0, **rule)
    try:
        yield
    finally:
        lab.control.ask("calm")


@pytest.mark.parametrize("words", [("demo",), ("standard", "--https")], ids=["sealed", "https"])
def test_all_is_well(hosts: Hosts, lab: Labs, words: tuple[str, ...], tmp_path: Path) -> None:
    here = lab(*words)
    hosts.configure(here)
    report, trace = tmp_path / "report.md", tmp_path / "trace.jsonl"
    code, checks, result = hosts.check("--report", report, "--record", trace)
    assert (code, states(checks) <= {"confirmed", "skipped"}) == (0, True), result
    is_https = here.facts["transport"] == "https"
    assert checks["trust"]["state"] == ("confirmed" if is_https else "skipped")
    assert [json.loads(line)["message_type"] for line in result.err.splitlines()] == ["warning"] * (
        not is_https
    )
    assert {name for name, check in checks.items() if check["state"] == "confirmed"} >= {
        *(set(ENTRY) - {"trust"}), "read-wmi", "version", "edition", "clock", "free-space",
        "reference-points", "invoke", "image-service", "rct", "disk-ids", "folder-1", "folder-1-read",
    }  # fmt: skip
    assert checks["rct"]["fact"] == "refused with 32773"
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    first, *more = trace.read_text("utf-8").splitlines()
    assert json.loads(first) == {"vmkeep_trace": 1}
    assert len(more) == json.loads(result.text)["requests"]
    for written in (report, trace):
        assert here.password not in written.read_text("utf-8")
    told = report.read_text("utf-8")
    names = {vm["name"] for vm in here.control.ask("state")["state"]["vms"]} - {
        "files"
    }  # a word of ours, too
    assert len(names) > 2
    for name in (*names, ":\\", "127.0.0.1", "Administrator", str(tmp_path), here.facts["name"]):
        assert name not in told, name
    assert "| invoke | confirmed |" in told
    assert "row 52: confirmed by rct" in told


@pytest.mark.parametrize(("name", "code", "error"), [("nobody", 1, "HV001"), ("twin", 2, "HV002")])
def test_a_probe_of_a_name_ends_as_a_backup_of_it(
    hosts: Hosts, lab: Labs, name: str, code: int, error: str
) -> None:
    hosts.configure(lab("standard", "--https"))
    ended, checks, result = hosts.check("--probe", name, "--yes")
    assert (ended, checks["probe-vm"]["error"]) == (code, error), result
    assert checks["probe-checkpoint"]["state"] == "skipped"
    assert not list((hosts.program.state / "probes" / "host-lab").glob("*.jsonl"))
    backup = hosts("backup", "hyperv://lab", "--vm", name)
    assert backup.code == code
    detail, hint = checks["probe-vm"]["detail"], checks["probe-vm"]["hint"]
    assert detail in backup.err
    assert hint in backup.err


def test_the_wrong_password_is_refused_once(hosts: Hosts, lab: Labs, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text(f"{CANARY}\n")
    (tmp_path / "wrong").chmod(0o600)
    hosts.configure(lab("demo"), password_file="wrong")
    report, trace = tmp_path / "report.md", tmp_path / "trace.jsonl"
    code, checks, result = hosts.check("--report", report, "--record", trace)
    assert code == 13, result
    assert [checks[name]["state"] for name in ENTRY] == ["confirmed", "skipped", "confirmed", "refuted"]
    assert checks["login"]["error"] == "HW005"
    assert {checks[name]["state"] for name in ("read-wmi", "invoke", "files")} == {"skipped"}
    assert "locking the account" in checks["login"]["hint"]
    assert CANARY not in report.read_text("utf-8") + trace.read_text("utf-8")


def test_a_certificate_nobody_vouches_for_is_not_trusted(hosts: Hosts, lab: Labs) -> None:
    hosts.configure(lab("standard", "--https"), ca_file=None)
    code, checks, result = hosts.check()
    assert code == 13, result
    assert (checks["reach"]["state"], checks["trust"]["state"]) == ("confirmed", "refuted")
    assert checks["trust"]["error"] == "HW003"
    assert "ca_file" in checks["trust"]["hint"]
    assert "docs/rights.md#a-listener-with-https" in checks["trust"]["hint"]
    assert "login" not in checks


def test_nobody_listens(hosts: Hosts, lab: Labs, free_port: int) -> None:
    hosts.configure(lab("demo"), port=free_port)
    code, checks, result = hosts.check()
    assert code == 13, result
    assert (checks["reach"]["state"], checks["reach"]["error"]) == ("refuted", "HW002")
    assert str(free_port) in checks["reach"]["detail"]
    assert "trust" not in checks


@pytest.mark.parametrize(
    ("action", "name", "skips"),
    [("GetVirtualHardDiskSettingData", "invoke", "image-service"), ("Enumerate", "read-wmi", "invoke")],
)
def test_a_missing_right_is_named(hosts: Hosts, lab: Labs, action: str, name: str, skips: str) -> None:
    here = lab("demo")
    hosts.configure(here)
    with disturbed(here, effect="fault", action=action, code=5):
        code, checks, result = hosts.check()
        shown = hosts("hosts", "check", "lab")
    assert (code, shown.code) == (13, 13), result
    assert (checks[name]["state"], checks[name]["error"]) == ("refuted", "HW007")
    assert checks[skips]["state"] == "skipped"
    assert "RootSDDL" in checks[name]["detail"]
    assert checks[name]["hint"].endswith("See docs/rights.md#the-account.")
    assert f" NO  {name} " in shown.text
    assert checks["login"]["state"] == "confirmed"
    if name == "invoke":  # what needs no Invoke is found out all the same
        assert checks["folder-1-read"]["state"] == "confirmed"


def test_a_share_that_nobody_serves_is_asked_for_once(hosts: Hosts, lab: Labs, free_port: int) -> None:
    here = lab("standard", "--https")
    hosts.configure(here, paths=None, smb_port=free_port)
    code, checks, result = hosts.check()
    assert code == 13, result
    assert (checks["folder-1"]["state"], checks["folder-1"]["error"]) == ("refuted", "HF001")
    rest = [check for name, check in checks.items() if name.startswith("folder-") and name != "folder-1"]
    assert len(rest) > 5
    assert {check["state"] for check in rest} == {"skipped"}


@pytest.mark.parametrize("missing", ["all", "one"])
def test_a_folder_that_is_not_there(hosts: Hosts, lab: Labs, missing: str, tmp_path: Path) -> None:
    here = lab("demo")
    ((prefix, address),) = here.facts["paths"].items()
    paths = {prefix: (tmp_path / "nowhere").as_uri()}
    if missing == "one":
        (tmp_path / "empty").mkdir()
        paths = {prefix: address, f"{prefix}\\web-server": (tmp_path / "empty").as_uri()}
    hosts.configure(here, paths=paths)
    code, checks, result = hosts.check()
    assert code == 1, result
    refused = {name: check["error"] for name, check in checks.items() if check["state"] == "refuted"}
    assert set(refused.values()) == {"HF017" if missing == "all" else "HF007"}, refused
    assert all("web-server" in checks[name]["subject"] for name in refused) == (missing == "one")
    assert "read" in result.text


class _Nonsense(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>\x1b[31mI am a printer</html>")

    def log_message(self, *_: object) -> None:
        return


def test_another_service_answers(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(CANARY)
    (tmp_path / "password").chmod(0o600)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Nonsense) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        hosts.write(
            f'address = "127.0.0.1"\nport = {server.server_port}\ntransport = "http"\nauth = "ntlm"\n'
            'user = "u"\npassword_file = "password"\n'
        )
        code, checks, result = hosts.check()
        server.shutdown()
        thread.join()
    assert code == 13, result
    stopped = [name for name in ENTRY if name in checks and checks[name]["state"] == "refuted"]
    assert len(stopped) == 1 and stopped[0] in ("protocol", "login"), checks
    unsteered(result)


@pytest.mark.parametrize(
    ("host", "name", "fact", "code"),
    [
        ('edition = "client"', "edition", "workstation", 1),
    ],
)
def test_a_host_that_is_not_supported(
    hosts: Hosts, tmp_path: Path, host: str, name: str, fact: str, code: int
) -> None:
    with running_lab(SMALL.format(host=host, name="one"), tmp_path / "state") as here:
        hosts.configure(here)
        ended, checks, result = hosts.check()
    assert ended == code, result
    assert checks[name]["state"] == "refuted"
    assert fact in checks[name]["fact"]
    assert {other for other, check in checks.items() if check["state"] == "refuted"} == {name}


def test_a_clock_that_is_wrong(hosts: Hosts, tmp_path: Path) -> None:
    with running_lab(ONE, tmp_path / "state") as here:
        here.control.ask("push", seconds=1000)
        hosts.configure(here)
        code, checks, result = hosts.check()
    assert code == 3, result
    assert checks["clock"]["state"] == "refuted"
    assert checks["clock"]["fact"].endswith("s ahead")
    assert "NTP" in checks["clock"]["hint"]


@pytest.mark.parametrize("scenario", ["japanese"])
def test_names_of_the_host_are_text_and_nothing_else(
    hosts: Hosts, lab: Labs, scenario: str, tmp_path: Path
) -> None:
    here = lab(scenario)
    (tmp_path / "elsewhere").mkdir()
    ((prefix, address),) = here.facts["paths"].items()
    # One folder is not reached, so that a Japanese path stands in what is told, too.
    hosts.configure(here, paths={prefix: address, rf"{prefix}\会計": (tmp_path / "elsewhere").as_uri()})
    report = tmp_path / "report.md"
    result = hosts("hosts", "check", "lab", "-v", "--report", report)
    assert result.code == 1, result
    unsteered(result)
    assert "会計" in result.text
    assert "会計" not in report.read_text("utf-8")
    _, checks, told = hosts.check()
    unsteered(told)
    assert any("会計" in check["subject"] for check in checks.values())
    assert "X-Injected" not in report.read_text("utf-8")


def test_a_real_file_server(hosts: Hosts, tmp_path: Path) -> None:
    """Samba serves the lab's folder to the lab's account: signed, listed, read."""
    users = tmp_path / "users"
    with Samba(tmp_path / "samba", username_map=str(users)) as samba:
        users.write_text(f"{samba.user} = Administrator\n")
        state = samba.content / "host"
        state.mkdir()
        (state / "password").write_text(PASSWORD, "utf-8")
        (state / "password").chmod(0o600)
        with running_lab(ONE, state) as here:
            rule = {"C:\\VMs": f"smb://127.0.0.1:{samba.port}/C$/host/files/C/VMs"}
            hosts.configure(here, paths=rule)
            code, checks, result = hosts.check()
        assert samba.open_files() == []
    assert code == 0, result
    assert checks["folder-1"]["fact"].startswith("a share, protected by AES-"), checks
    assert "4096 bytes" in checks["folder-1-read"]["fact"]


def test_a_trace_is_not_written_over_something(hosts: Hosts, lab: Labs, tmp_path: Path) -> None:
    hosts.configure(lab("demo"), transport="http")
    (tmp_path / "there").write_text("precious")
    result = hosts("hosts", "check", "lab", "--record", "there")
    assert result.code == 2
    assert "exists" in result.err
    assert (tmp_path / "there").read_text() == "precious"


@pytest.mark.parametrize("option", ["--report", "--record"])
def test_a_file_that_cannot_be_made_is_refused_before_the_host_is_asked(
    hosts: Hosts, lab: Labs, free_port: int, tmp_path: Path, option: str
) -> None:
    hosts.configure(lab("demo"), port=free_port)  # nobody is there: whoever asked would say so
    result = hosts("hosts", "check", "lab", option, tmp_path / "nowhere" / "file")
    assert result.code == 1, result
    sentence, hint = result.err.splitlines()[-2:]
    assert f"cannot write the {'report' if option == '--report' else 'trace'}" in sentence
    assert "no such file or directory" in sentence
    assert hint.strip() == "Choose another place."


def test_a_report_is_not_written_over_something_else(
    hosts: Hosts, lab: Labs, free_port: int, tmp_path: Path
) -> None:
    hosts.configure(lab("demo"), port=free_port)  # nobody is there: whoever asked would say so
    (tmp_path / "there").write_text("precious")
    result = hosts("hosts", "check", "lab", "--report", "there")
    assert result.code == 2, result
    assert "exists and is no report" in result.err
    assert (tmp_path / "there").read_text() == "precious"


def test_a_report_is_replaced_by_a_whole_one_or_not_at_all(hosts: Hosts, lab: Labs, tmp_path: Path) -> None:
    here, report = lab("standard", "--https"), tmp_path / "reports" / "lab.md"
    report.parent.mkdir()
    hosts.configure(here, ca_file=None)
    assert hosts.check("--report", report)[0] == 13
    first = report.read_text("utf-8")
    assert "vmkeep cannot work with this host" in first
    hosts.configure(here)
    room = len(first) // 2
    full = hosts.program(
        *("hosts", "check", "lab", "--report", report),
        env={"VMKEEP_CONFIG": str(hosts.file)},
        before_exec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert full.code == 1
    assert f"cannot write the report {str(report)!r}: file too large." in full.err
    assert report.read_text("utf-8") == first
    assert hosts.check("--report", report)[0] == 0
    assert "vmkeep can work with this host" in report.read_text("utf-8")
    assert list(report.parent.iterdir()) == [report]
