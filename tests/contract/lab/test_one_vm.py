"""On each host of the lab, the facts of each VM alone are those that the inventory has of it."""

import random
from pathlib import Path

import pytest

from tests.lab_captures import OWNER, doors
from tests.lab_process import running_lab
from vmkeep.host.hyperv import read_vm, take_inventory, with_guests

# Of a scenario with more VMs, so many are asked for besides those that are like no other.
MOST = 8


@pytest.mark.parametrize("scenario", ["demo", "standard", "hostile", "japanese", "big-inventory"])
def test_each_vm_is_what_the_inventory_says_of_it(scenario: str, seed: int, tmp_path: Path) -> None:
    with running_lab(scenario, tmp_path) as lab, doors(lab.facts) as found:
        lab.control.ask("pause")
        lab.control.ask("free", bytes=7 << 30)  # else other programs of this machine move it
        whole = take_inventory(found.host, repository=OWNER.repository)
        alike = [vm for vm in whole.vms if vm.vm.name.startswith("vm-")]
        picked = random.Random(seed).sample(alike, min(len(alike), MOST))
        others = [vm for vm in whole.vms if vm not in alike]
        assert others
        for vm in (*others, *picked):
            before = found.host.client.requests
            alone = read_vm(found.host, vm.vm.id, whole, repository=OWNER.repository)
            assert alone == vm
            assert found.host.client.requests - before <= 10
            if vm.state == "running":
                # Few guests are asked together; what one tells does not depend on the others.
                assert with_guests(found.host, [alone]) == with_guests(found.host, [vm])
