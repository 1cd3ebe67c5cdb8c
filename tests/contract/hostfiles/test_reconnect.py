"""Cut, silent and restarted servers: the same file goes on, another one is refused, no handle is left."""

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise

import pytest

from tests.clocks import FakeClock
from tests.contract.hostfiles.places import connect
from tests.contract.hostfiles.test_smb import DISK, MIB, ActingClock, read, write_disk
from tests.fakes.proxy import Proxy
from tests.fakes.samba import Samba
from vmkeep.host.files.errors import AnotherFile, FileMissing, HostUnreachable
from vmkeep.host.files.remote import RemoteFile


@pytest.fixture(scope="module")
def shared(servers: Callable[[str], Samba]) -> Samba:
    return servers("smb-gmac")


@pytest.mark.parametrize("answers", [0, 1, 5])
def test_a_cut_in_the_middle_of_a_read_goes_on(answers: int, shared: Samba, seed: int) -> None:
    data = write_disk(shared, seed, 8 * MIB)
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port) as files,
        closing(files.open(DISK)) as file,
    ):
        proxy.cut_after = answers
        assert read(file, 0, 8 * MIB) == data
        assert proxy.cut_after is None
        assert proxy.connections == 2
        assert files.open_handles == 1
    shared.wait_until_nothing_is_open()


class _Over(Exception):
    """Whoever watches has seen enough."""


def test_whoever_waits_for_a_silent_server_is_let_go_by_a_look(shared: Samba, seed: int) -> None:
    data = write_disk(shared, seed, MIB)
    looked: list[float] = []

    def look() -> None:
        looked.append(time.monotonic())
        if len(looked) > 3:
            raise _Over

    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port) as files,
        closing(files.open(DISK)) as file,
    ):
        proxy.stall()
        with files.looking(look), pytest.raises(_Over):
            read(file, 0, MIB)
        assert all(later - before < 2.0 for before, later in pairwise(looked))
        proxy.resume()
        assert read(file, 0, MIB) == data  # nobody looks any more
    shared.wait_until_nothing_is_open()


def test_a_file_whose_opening_nobody_waited_for_is_closed_with_its_login(shared: Samba, seed: int) -> None:
    write_disk(shared, seed, MIB)

    def look() -> None:
        if is_silent.is_set():
            raise _Over

    is_silent = threading.Event()
    with Proxy(shared.port) as proxy, connect(shared, port=proxy.port) as files:
        assert files.exists(DISK)
        with files.looking(look):
            is_silent.set()
            proxy.stall()
            with pytest.raises(_Over):
                files.open(DISK)
        proxy.resume()
        assert files.open_handles == 1  # the server may have opened it
        assert files.end_lost_logins()
        assert files.open_handles == 0
        shared.wait_until_nothing_is_open()


def test_every_file_of_a_cut_connection_goes_on(shared: Samba, seed: int) -> None:
    data = write_disk(shared, seed)
    with Proxy(shared.port) as proxy, connect(shared, port=proxy.port) as files:
        opened = [files.open(DISK) for _ in range(4)]
        proxy.cut()
        assert [read(file, 0, len(data)) for file in opened] == [data] * 4
        assert proxy.connections == 2
        assert files.open_handles == 4
        proxy.cut()
        files.list_folder("C:\\")
        assert files.stat(DISK).size == len(data)
        opened[0].close()


def test_a_server_killed_and_started_again_goes_on(samba: Samba, seed: int) -> None:
    data = write_disk(samba, seed)
    clock = ActingClock(lambda: None, lambda: None, samba.start)
    with connect(samba, clock=clock) as files, closing(files.open(DISK)) as file:
        assert read(file, 0, MIB) == data[:MIB]
        samba.kill()
        assert read(file, MIB, 5 * MIB) == data[MIB:]
        assert len(clock.slept) == 3
        assert samba.open_files() == ["disk.vhdx"]
    assert samba.open_files() == []


@pytest.mark.parametrize("times", ["new", "forged"])
def test_a_file_replaced_meanwhile_is_refused(times: str, samba: Samba, seed: int) -> None:
    data = write_disk(samba, seed)
    disk = samba.content / "disk.vhdx"
    stamp = disk.stat()
    with connect(samba) as files, closing(files.open(DISK)) as file:
        assert read(file, 0, MIB) == data[:MIB]
        samba.kill()
        (samba.content / "new").write_bytes(data)
        os.replace(samba.content / "new", disk)
        if times == "forged":
            os.utime(disk, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        samba.start()
        for _ in range(2):
            with pytest.raises(AnotherFile) as caught:
                read(file, MIB, MIB)
            assert caught.value.context["path"] == DISK
        assert files.open_handles == 0
    assert samba.open_files() == []


def test_a_file_written_meanwhile_is_refused(shared: Samba, seed: int) -> None:
    write_disk(shared, seed)
    disk = shared.content / "disk.vhdx"
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port) as files,
        closing(files.open(DISK)) as file,
    ):
        read(file, 0, 10)
        stamp = disk.stat()
        with disk.open("r+b") as other:
            other.write(b"x")
        os.utime(disk, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1_000_000_000))
        proxy.cut()
        with pytest.raises(AnotherFile):
            read(file, 0, 10)


def test_the_proof_finds_what_numbers_do_not(shared: Samba, seed: int) -> None:
    """Same number, size and times, other bytes: only the caller knows what makes the file unmistakable."""
    write_disk(shared, seed)
    disk = shared.content / "disk.vhdx"
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port) as files,
        closing(files.open(DISK, proof=lambda ask: ask(65536, 4096))) as file,
    ):
        first = read(file, 0, 10)
        stamp = disk.stat()
        proxy.cut()
        assert read(file, 0, 10) == first
        with disk.open("r+b") as other:
            other.seek(65536)
            other.write(b"another sequence number")
        os.utime(disk, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        proxy.cut()
        with pytest.raises(AnotherFile):
            read(file, 0, 10)
        assert files.open_handles == 0
    shared.wait_until_nothing_is_open()


def test_a_file_that_is_gone_after_a_cut(shared: Samba, seed: int) -> None:
    write_disk(shared, seed)
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port) as files,
        closing(files.open(DISK)) as file,
    ):
        (shared.content / "disk.vhdx").unlink()
        proxy.cut()
        with pytest.raises(FileMissing):
            read(file, 0, 10)


def test_a_share_closed_by_an_administrator_is_opened_again(samba: Samba, seed: int) -> None:
    data = write_disk(samba, seed, MIB)
    with connect(samba) as files, closing(files.open(DISK)) as file:
        assert read(file, 0, MIB) == data
        samba.close_share("C$")
        samba.wait_until_nothing_is_open()
        assert read(file, 0, MIB) == data
        assert files.open_handles == 1
        assert samba.open_files() == ["disk.vhdx"]
    assert samba.open_files() == []


def test_a_handle_the_server_has_closed_is_opened_again_on_the_same_connection(
    shared: Samba, seed: int
) -> None:
    data = write_disk(shared, seed, MIB)
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port) as files,
        closing(files.open(DISK)) as file,
    ):
        assert isinstance(file, RemoteFile)
        handle = file._handle
        assert handle is not None
        handle.close()  # behind the back of the file: the server answers FILE_CLOSED from now on
        assert files.open_handles == 0
        assert read(file, 0, MIB) == data
        assert (files.open_handles, proxy.connections) == (1, 1)


def test_patience_ends(samba: Samba, seed: int) -> None:
    write_disk(samba, seed)
    clock = FakeClock()
    files = connect(samba, clock=clock)
    file = files.open(DISK)
    samba.kill()
    with pytest.raises(HostUnreachable):
        read(file, 0, 10)
    assert 30 < sum(clock.slept) < 120
    assert clock.slept == sorted(clock.slept)
    file.close()
    files.close()
    # Nobody has said that the handle is closed: a host may have lost the network only.
    assert files.open_handles == 1


def test_a_silent_connection_is_given_up_and_its_handles_closed(shared: Samba, seed: int) -> None:
    """The server does not notice the cut; signing in again makes it close what it held for us."""
    data = write_disk(shared, seed)
    with Proxy(shared.port) as proxy:
        clock = ActingClock(proxy.resume_new)
        with (
            connect(shared, port=proxy.port, clock=clock, timeout_s=2) as files,
            closing(files.open(DISK)) as file,
        ):
            proxy.stall()
            assert read(file, 0, len(data)) == data
            assert files.open_handles == 1
            assert shared.open_files() == ["disk.vhdx"]


def test_closing_while_the_host_is_away_ends_the_handles_when_it_is_back(shared: Samba, seed: int) -> None:
    write_disk(shared, seed)
    with Proxy(shared.port) as proxy:
        files = connect(shared, port=proxy.port, timeout_s=2)
        file = files.open(DISK)
        proxy.stall()
        file.close()  # unanswered
        assert files.open_handles == 1
        proxy.resume_new()
        files.close()
        assert files.open_handles == 0
        assert shared.open_files() == []


def test_cuts_under_many_threads(shared: Samba, seed: int) -> None:
    data = write_disk(shared, seed, 4 * MIB)
    chance = random.Random(seed)
    wrong: list[object] = []
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port) as files,
        closing(files.open(DISK)) as file,
    ):

        def work(number: int) -> None:
            own = random.Random(seed + number)
            for _ in range(15):
                offset, length = own.randrange(3 * MIB), own.randrange(2 * MIB)
                if read(file, offset, length) != data[offset : offset + length]:
                    wrong.append((offset, length))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            proxy.cut_after = chance.randrange(6)
            threads[0].join(timeout=0.3)
        proxy.cut_after = None
        for thread in threads:
            thread.join(timeout=120)
        assert not any(thread.is_alive() for thread in threads)
        assert wrong == []
        assert proxy.connections >= 2
    shared.wait_until_nothing_is_open()
