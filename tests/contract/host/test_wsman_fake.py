"""The scripted host of the tests is one that pypsrp, which is not ours, talks to without a complaint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pypsrp.exceptions import AuthenticationError, WinRMTransportError, WSManFaultError
from pypsrp.wsman import SelectorSet, WSMan

from tests.fakes.certificates import Authority
from tests.fakes.wsman_host import USER, Reply, WsmanHost, fault

pytestmark = pytest.mark.quick

PASSWORD = "canary-pa55-word"
URI = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_X"
INSTANCE = Reply(f'<q:Win32_X xmlns:q="{URI}"><q:Id>1</q:Id></q:Win32_X>')


@pytest.fixture(autouse=True)
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "accounts"
    file.write_text(f"LAB:tester:{PASSWORD}\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(file))


@pytest.fixture(params=["http", "https"])
def talk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[WsmanHost, dict[str, Any]]]:
    authority = Authority(tmp_path)
    with WsmanHost(authority.issue() if request.param == "https" else None) as host:
        yield (
            host,
            {"port": host.port, "ssl": host.is_tls, "cert_validation": str(authority.file), "no_proxy": True},
        )


@pytest.mark.parametrize("auth", ["ntlm", "negotiate"])
def test_answers_and_faults(talk: tuple[WsmanHost, dict[str, Any]], auth: str) -> None:
    host, where = talk
    host.script.extend([INSTANCE, fault(2150858793), Reply(content=b"", status=503)])
    selectors = SelectorSet()
    selectors.add_option("Id", "1")
    with WSMan("127.0.0.1", username=USER, password=PASSWORD, auth=auth, **where) as wsman:
        body = wsman.get(URI, selector_set=selectors)
        assert body.findtext(f"{{{URI}}}Win32_X/{{{URI}}}Id") == "1"
        with pytest.raises(WSManFaultError) as raised:
            wsman.get(URI)
        assert raised.value.code == 2150858793
        with pytest.raises(WinRMTransportError, match="503"):
            wsman.get(URI)
    assert [question.action.rpartition("/")[2] for question in host.asked] == ["Get"] * 3


def test_a_wrong_password(talk: tuple[WsmanHost, dict[str, Any]]) -> None:
    host, where = talk
    wsman = WSMan("127.0.0.1", username=USER, password="another", auth="ntlm", **where)
    with wsman, pytest.raises(AuthenticationError):
        wsman.get(URI)
    assert host.asked == []
