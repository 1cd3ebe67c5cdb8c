"""How a user names where a VM is."""

from pathlib import Path

import pytest

from vmkeep.capture.source import HostAddress, SourceAddress, parse_source, readable
from vmkeep.errors import ExitCode, UsageError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("folder:/srv/vm", "folder", "/srv/vm"),
        ("disk:C:\\VMs\\a.vhdx", "disk", "C:\\VMs\\a.vhdx"),
        ("disk:a:b", "disk", "a:b"),
        ("folder:.", "folder", "."),
        ("disk:hyperv://x", "disk", "hyperv:/x"),
    ],
)
def test_addresses(text: str, kind: str, path: str) -> None:
    address = parse_source(text)
    assert isinstance(address, SourceAddress)
    assert (address.kind, address.path) == (kind, Path(path))


@pytest.mark.parametrize("text", ["", "folder:", "disk:", "/srv/vm", "Folder:/x", "file:/x", ":x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "folder:" in caught.value.hint and "disk:" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "host", "vm"),
    [
        ("hyperv://hv1", "hv1", None),
        ("hyperv://hv1/web server", "hv1", "web server"),
        ("hyperv://hv1/a/b%20?c#d", "hv1", "a/b%20?c#d"),
    ],
)
def test_hosts_and_their_vms_are_taken_letter_for_letter(text: str, host: str, vm: str | None) -> None:
    address = parse_source(text)
    assert isinstance(address, HostAddress)
    assert (address.host, address.vm, str(address)) == (host, vm, text)


@pytest.mark.parametrize("text", ["hyperv://", "hyperv:///vm", "hyperv://hv1/"])
def test_a_host_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert "hyperv://NAME/VM" in caught.value.hint


def test_bytes_that_are_no_text_are_written_out() -> None:
    assert readable("d\udcff%") == "d%FF%"
    assert readable("\ud800") == "%ED%A0%80"  # Windows allows halves of characters in names
    assert str(SourceAddress.parse("disk:/x/\udce4.raw")) == "disk:/x/%E4.raw"
    assert readable("\u00e4\r\x1b") == "\u00e4\r\x1b"  # text stays text, whatever it does to a terminal
