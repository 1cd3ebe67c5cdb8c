"""`hosts check` with a domain account: a real KDC, a lab that is in its realm, and what people get wrong."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import CANARY
from tests.e2e.hosts.configured import ONE, Hosts
from tests.fakes.kdc import PASSWORD, USER, Kdc
from tests.forked import SOURCE_ROOT
from tests.lab_process import Lab, running_lab


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kdc]:
    with Kdc(tmp_path_factory.mktemp("realm") / "kdc") as kdc:
        yield kdc


@pytest.fixture(scope="module", params=["http", "https"])
def member(
    kdc: Kdc, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A simulated host that is in the realm."""
    folder = tmp_path_factory.mktemp(request.param)
    options = [f"--keytab={kdc.keytab}", *(["--https"] if request.param == "https" else [])]
    with running_lab(ONE, folder / "state", *options, environment=kdc.environment) as lab:
        yield lab


@pytest.fixture
def account(hosts: Hosts, kdc: Kdc, tmp_path: Path) -> dict[str, Any]:
    """What differs in the host's block; the password lies in a file."""
    kdc.configure()
    hosts.environment = kdc.environment
    hosts.secrets.append(PASSWORD.encode())
    file = tmp_path / "domain-password"
    file.write_text(f"{PASSWORD}\n", "utf-8")
    file.chmod(0o600)
    return {"address": "localhost", "auth": "kerberos", "user": USER, "password_file": str(file)}


@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
def test_a_domain_account_with_a_password(
    hosts: Hosts, kdc: Kdc, member: Lab, account: dict[str, Any], auth: str, tmp_path: Path
) -> None:
    hosts.configure(member, **account | {"auth": auth})
    before = len(kdc.log("TGS_REQ", "ISSUE", "HOST/localhost"))
    report, trace = tmp_path / "report.md", tmp_path / "trace.jsonl"
    code, checks, result = hosts.check("--report", report, "--record", trace)
    assert code == 0, result
    assert {check["state"] for check in checks.values()} <= {"confirmed", "skipped"}
    assert checks["login"]["state"] == checks["folder-1-read"]["state"] == "confirmed"
    assert len(kdc.log("TGS_REQ", "ISSUE", "HOST/localhost")) > before
    for written in (report, trace):
        for secret in (PASSWORD, USER, USER.partition("@")[0] + "@"):
            assert secret not in written.read_text("utf-8")


def test_a_ticket_that_is_there(
    hosts: Hosts, kdc: Kdc, member: Lab, account: dict[str, Any], tmp_path: Path
) -> None:
    hosts.environment = kdc.ticket(tmp_path / "ticket")
    hosts.configure(member, **account | {"user": None, "password_file": None})
    before = len(kdc.log("AS_REQ"))
    code, checks, result = hosts.check()
    assert (code, checks["login"]["state"]) == (0, "confirmed"), result
    assert len(kdc.log("AS_REQ")) == before


def test_the_wrong_password(
    hosts: Hosts, kdc: Kdc, member: Lab, account: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "domain-password").write_text(f"{CANARY}\n", "utf-8")
    hosts.configure(member, **account)
    before = len(kdc.log("PREAUTH_FAILED"))
    code, checks, result = hosts.check()
    assert (code, checks["login"]["error"]) == (13, "HW005"), result
    assert checks["login"]["detail"].endswith("the password is wrong.")
    assert "locking the account" in checks["login"]["hint"]
    assert len(kdc.log("PREAUTH_FAILED")) == before + 1


def test_no_kdc_answers(hosts: Hosts, kdc: Kdc, member: Lab, account: dict[str, Any]) -> None:
    with socket.socket() as silent:  # bound and not listening: refused at once
        silent.bind(("127.0.0.1", 0))
        kdc.configure(port=int(silent.getsockname()[1]))
        hosts.configure(member, **account)
        code, checks, result = hosts.check()
    assert (code, checks["login"]["error"]) == (13, "HW006"), result
    assert "no KDC of the user's domain answers" in checks["login"]["detail"]
    assert "port 88" in checks["login"]["detail"]


@pytest.mark.parametrize("auth", ["kerberos", "negotiate"])
def test_without_the_extra_its_name_is_told(hosts: Hosts, tmp_path: Path, auth: str) -> None:
    """Needs no KDC: the extra is hidden behind a module that cannot be imported."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "gssapi.py").write_text("raise ImportError('no such library')\n")
    hosts.environment = {"PYTHONPATH": f"{hidden}:{SOURCE_ROOT}"}
    with running_lab(ONE, tmp_path / "state", "--https") as lab:
        hosts.configure(lab, auth=auth, user=None, password_file=None)
        result = hosts("hosts", "check", "lab")
    assert result.code == 2, result
    first, second = result.err.splitlines()
    assert first.endswith("by Kerberos.")
    assert "vmkeep[kerberos]" in second
