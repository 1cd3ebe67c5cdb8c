"""A guest is called Windows only on good evidence; nonsense from a guest is unknown."""

import pytest

from tests.fakes.hyperv_rows import kvp
from vmkeep.host.hyperv.guests import exchange_items, family_of, guest_facts
from vmkeep.host.wsman import Instance
from vmkeep.model.facts import ComponentState, VmState

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("pairs", "family"),
    [
        ({"OSName": "Windows Server 2022 Datacenter", "OSPlatformId": "2"}, "windows"),
        ({"OSName": "Windows Server 2022 Datacenter"}, "windows"),
        ({"OSName": "Ubuntu", "OSVersion": "6.8.0-31-generic"}, "linux"),
        ({"OSName": "FreeBSD"}, "other"),
        ({"OSName": "Debian GNU/Linux 12", "OSPlatformId": "268435456"}, "linux"),
        ({"OSName": "Windows 95", "OSPlatformId": "1"}, None),
        ({"OSName": "Windows Server 2022 Datacenter", "OSPlatformId": "268435456"}, None),
        ({"OSName": "", "OSPlatformId": "268435456"}, None),
        ({"OSName": "", "OSPlatformId": ""}, None),
        ({}, None),
    ],
)
def test_families(pairs: dict[str, str], family: str | None) -> None:
    assert family_of(pairs) == family


@pytest.mark.parametrize(
    ("component", "state", "answers"),
    [
        ("ok", "running", True),
        ("degraded", "running", True),
        ("ok", "off", False),
        ("ok", "saved", False),
        ("ok", None, False),
        ("no_contact", "running", False),
        ("disabled", "running", False),
        (None, "running", None),
    ],
)
def test_writers_answer_only_in_a_running_guest(
    component: ComponentState | None, state: VmState | None, answers: bool | None
) -> None:
    assert guest_facts({}, component, state).vss_writers is answers


def test_what_a_guest_says_is_read() -> None:
    row = kvp("any", OSName="Debian GNU/Linux", OSBuildNumber="12 & more")
    component = Instance("Msvm_KvpExchangeComponent", "root/virtualization/v2", row)
    assert exchange_items(component) == {"OSName": "Debian GNU/Linux", "OSBuildNumber": "12 & more"}


@pytest.mark.parametrize(
    "items",
    [None, [], ["<INSTANCE"], ["<!DOCTYPE a><INSTANCE CLASSNAME='a'/>"], ["<INSTANCE CLASSNAME='a'/>"], [""]],
)
def test_nonsense_is_unknown(items: list[str] | None) -> None:
    component = Instance(
        "Msvm_KvpExchangeComponent", "root/virtualization/v2", {"GuestIntrinsicExchangeItems": items}
    )
    assert exchange_items(component) == {}


def test_a_long_name_is_cut() -> None:
    name = guest_facts({"OSName": "x" * 10_000}, None, None).name
    assert name is not None
    assert len(name) == 200
