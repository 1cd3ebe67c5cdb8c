"""Numbers of a VM in words; both families of states, and recordings of a real host."""

import pytest

from tests.fakes.hyperv_host import TableHost
from tests.fakes.hyperv_rows import WEB, vm
from vmkeep.host.hyperv import VmNotFound, read_power_state
from vmkeep.host.hyperv.states import component_state, operation_of, phase_of, replication_facts, state_word
from vmkeep.model.facts import ReplicationFacts

pytestmark = pytest.mark.quick


# hyperv-backup-api.md 1.1: the v2 family (recorded), the older one, and RequestStateChange's critical states.
@pytest.mark.parametrize(
    ("code", "word"),
    [
        (2, "running"),
        (3, "off"),
        (6, "saved"),
        (9, "paused"),
        (32768, "paused"),
        (32769, "saved"),
        (32779, "saved"),
        *((code, "critical") for code in range(32781, 32793)),
        (4, None),
        (10, None),
        (32770, None),
        (32773, None),
        (32780, None),
        (32793, None),
        (0, None),
    ],
)
def test_states(code: int, word: str | None) -> None:
    assert state_word(code, 5) == word


@pytest.mark.parametrize("health", [20, 25])
def test_ill_health_outweighs_the_state(health: int) -> None:
    assert state_word(2, health) == "critical"


@pytest.mark.parametrize(
    ("statuses", "phase", "operation"),
    [
        ([2], None, None),
        ([], None, None),
        ([2, 0], None, None),
        ([11, 32768], 32768, "backup"),
        ([11, 32770], 32770, "merge"),
        ([11, 32772], 32772, "merge"),
        ([2, 32773], 32773, "export"),
        ([2, 32774], 32774, "migrate"),
        ([2, 39999], 39999, "backup"),
    ],
)
def test_phases(statuses: list[int], phase: int | None, operation: str | None) -> None:
    assert phase_of(statuses) == phase
    assert operation_of(phase) == operation


@pytest.mark.parametrize(
    ("enabled", "statuses", "state"),
    [
        (2, [2], "ok"),
        (2, [3, 32775], "degraded"),
        (2, [7], "incompatible"),
        (2, [12], "no_contact"),
        (2, [13], "lost_contact"),
        (3, [2], "disabled"),
        (2, [], None),
        (2, [99], None),
        (None, [2], None),
    ],
)
def test_components(enabled: int | None, statuses: list[int], state: str | None) -> None:
    assert component_state(enabled, statuses) == state


@pytest.mark.parametrize(
    ("mode", "states", "facts"),
    [
        (0, (0,), ReplicationFacts("none", busy=False)),
        (1, (3,), ReplicationFacts("primary", busy=False)),
        (1, (3, 10), ReplicationFacts("primary", busy=True)),
        (2, (2,), ReplicationFacts("replica", busy=True)),
        (4, (), ReplicationFacts("extended_replica", busy=None)),
        (9, (3,), ReplicationFacts(None, busy=False)),
        (None, (), ReplicationFacts(None, busy=None)),
    ],
)
def test_replication(mode: int | None, states: tuple[int, ...], facts: ReplicationFacts) -> None:
    assert replication_facts(mode, states) == facts


def test_the_power_state_is_read_now() -> None:
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [vm(EnabledState=6, OperationalStatus=[2, 32772])]
    found = read_power_state(host.hyperv(), WEB)
    assert (found.code, found.word, found.phase) == (6, "saved", 32772)


def test_a_vm_that_is_gone_is_named() -> None:
    with pytest.raises(VmNotFound, match=WEB):
        read_power_state(TableHost().hyperv(), WEB)
