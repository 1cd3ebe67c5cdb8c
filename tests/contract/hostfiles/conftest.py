from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.hostfiles.places import SERVERS, Place, connect, overwrite_by_another
from tests.fakes.samba import Samba
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Samba]]:
    """Start each kind of server when it is first needed, and end them all."""
    running: dict[str, Samba] = {}

    def server(kind: str) -> Samba:
        if kind not in running:
            samba = Samba(tmp_path_factory.mktemp(kind) / "samba", **SERVERS[kind][0])
            samba.start()
            running[kind] = samba
        return running[kind]

    yield server
    for samba in running.values():
        samba.kill()


@pytest.fixture
def samba(tmp_path: Path) -> Iterator[Samba]:
    """A server of this test alone, which it may kill."""
    with Samba(tmp_path / "samba") as samba:
        yield samba


@pytest.fixture(params=["folder", *SERVERS])
def place(request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], Samba]) -> Place:
    if request.param == "folder":
        root = tmp_path / "mounted share"
        root.mkdir()
        rules = {"C:\\": root.as_uri()}

        def overwrite(name: str, data: bytes) -> None:
            with (root / name).open("r+b") as file:
                file.write(data)

        return Place(root, lambda: HostFiles("unused.invalid", 445, None, PathMap(rules)), overwrite)
    samba = servers(request.param)
    _, encryption, protection = SERVERS[request.param]
    content = samba.content / tmp_path.name  # a folder of this test on a server of many
    content.mkdir()
    rules = {"C:\\": f"smb://127.0.0.1/C$/{tmp_path.name}"}
    return Place(
        content,
        lambda: connect(samba, paths=rules, require_encryption=encryption),
        lambda name, data: overwrite_by_another(samba, f"{tmp_path.name}/{name}", data),
        protection,
    )


@pytest.fixture
def files(place: Place) -> Iterator[HostFiles]:
    with place.connect() as files:
        yield files
    assert files.open_handles == 0
