"""Conclude what a guest is from what it tells the host: key-value pairs and the backup component.

The guest writes these values itself and may write anything: what cannot be read
is unknown, and nothing here fails.
"""

from collections.abc import Mapping
from typing import Final

from vmkeep.host.wsman import HostError, Instance
from vmkeep.model.facts import ComponentState, GuestFacts, GuestFamily, VmState

_MOST_ITEMS: Final = 256
_LONGEST_NAME: Final = 200
_WINDOWS_PLATFORM: Final = "2"  # VER_PLATFORM_WIN32_NT
_OLD_PLATFORMS: Final = frozenset({"0", "1", "3"})  # Windows that has no VSS
_OTHERS: Final = ("freebsd", "openbsd", "netbsd", "dragonfly")


def exchange_items(component: Instance) -> dict[str, str]:
    """Return the pairs a guest sent by itself; nothing of those that cannot be read."""
    try:
        items = component.embeddeds("GuestIntrinsicExchangeItems")[:_MOST_ITEMS]
        return {item.text("Name"): item.text_or_none("Data") or "" for item in items}
    except HostError:  # the guest's own nonsense is no reason to refuse the host's list of VMs
        return {}


def guest_facts(
    pairs: Mapping[str, str], component: ComponentState | None, state: VmState | None
) -> GuestFacts:
    """Say what is known about a guest. Only a running one with a living component has writers that answer."""
    return GuestFacts(
        family=family_of(pairs),
        name=pairs.get("OSName", "")[:_LONGEST_NAME] or None,
        vss_writers=_writers_answer(component, state),
    )


def family_of(pairs: Mapping[str, str]) -> GuestFamily | None:
    """Tell Windows, Linux and others apart.

    Believed (docs/believed.md): Windows sends OSPlatformId 2 and its product name,
    which is not translated; the daemon of Linux and the BSDs sends the name of the
    distribution, and no platform or a number of its own.
    """
    name = pairs.get("OSName", "").strip().lower()
    platform = pairs.get("OSPlatformId", "").strip()
    if platform == _WINDOWS_PLATFORM:
        return "windows"
    if name.startswith(("windows", "microsoft windows")):
        return None if platform else "windows"
    if not name or platform in _OLD_PLATFORMS:
        return None
    return "other" if name.startswith(_OTHERS) else "linux"


def _writers_answer(component: ComponentState | None, state: VmState | None) -> bool | None:
    if component is None:
        return None
    return state == "running" and component in {"ok", "degraded"}
