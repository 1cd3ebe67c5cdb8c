"""The same hold, with the host's files behind a real SMB server, whose open files hinder a merge."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.samba import PASSWORD, Samba
from tests.lab_captures import Doors, doors, sha256_of
from tests.lab_process import Lab, running_lab
from vmkeep.capture.errors import HandlesOpen
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap
from vmkeep.secrets import Secret


@pytest.fixture
def samba(tmp_path: Path) -> Iterator[Samba]:
    with Samba(tmp_path / "samba") as samba:
        yield samba


@pytest.fixture
def lab(samba: Samba) -> Iterator[Lab]:
    with running_lab("demo", samba.content / "lab") as lab:
        yield lab


@pytest.fixture
def host(samba: Samba, lab: Lab) -> Iterator[Doors]:
    (place,) = lab.facts["paths"].values()
    below = Path(place.removeprefix("file://")).relative_to(samba.content)
    account = Credentials(samba.user, Secret(PASSWORD), auth="ntlm")
    paths = PathMap({"C:\\VMs": f"smb://127.0.0.1/C$/{below.as_posix()}"})
    with doors(lab.facts) as host, HostFiles("127.0.0.1", samba.port, account, paths) as files:
        yield replace(host, files=files)


def test_every_handle_is_closed_before_the_checkpoint_goes(samba: Samba, host: Doors) -> None:
    with host.hold("ledger") as held:
        assert held.checkpoint is not None
        assert host.files.open_handles >= 3 + len(held.files)
        truth = host.truth(held.checkpoint.id)
        assert [sha256_of(disk.disk) for disk in held.disks] == list(truth.values())
        held.check()
        released = held.release(track=True)
    assert host.files.open_handles == 0
    assert samba.open_files() == []
    assert released.merge.is_done
    assert held.evidence["open_handles"] == 0
    assert host.ours() == []


def test_a_checkpoint_is_not_released_over_an_open_file(host: Doors) -> None:
    with pytest.raises(HandlesOpen), host.hold("ledger") as held:
        forgotten = host.files.open(held.disks[0].file)
        try:
            held.release(track=True)
        finally:
            assert "hold-releasing" not in host.journal.steps
            forgotten.close()
    assert host.journal.steps[-1] == "hold-released"
    assert host.ours() == []
