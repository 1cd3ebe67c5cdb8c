"""What is promised of a server: who may read, how answers are protected, and that no handle is left."""

import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import smbclient

from tests.clocks import FakeClock
from tests.contract.hostfiles.places import connect, credentials, held_by_another
from tests.fakes.proxy import Proxy, is_read
from tests.fakes.samba import PASSWORD, STRANGER, Samba
from vmkeep.host.files.errors import (
    AnswerUntrusted,
    DialectUnsupported,
    FileDenied,
    FileInUse,
    HostUnreachable,
    LoginRefused,
    ProtectionImpossible,
    ShareDenied,
)
from vmkeep.host.files.facts import HostFile
from vmkeep.ranges import ByteRange

MIB = 1 << 20
DISK = "C:\\disk.vhdx"


@pytest.fixture(scope="module")
def shared(servers: Callable[[str], Samba]) -> Samba:
    """A server that no test of this module kills."""
    return servers("smb-gmac")


def write_disk(samba: Samba, seed: int, length: int = 6 * MIB) -> bytes:
    data = random.Random(seed).randbytes(length)
    (samba.content / "disk.vhdx").write_bytes(data)
    return data


def read(file: HostFile, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: file.read_into(offset, memoryview(buffer))])


class ActingClock(FakeClock):
    """Does something when somebody waits the n-th time, and then lets no time pass."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        super().__init__()
        self._acts = list(acts)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self._acts:
            self._acts.pop(0)()


# --- who may read ---------------------------------------------------------------


def test_a_wrong_password_is_tried_once(shared: Samba) -> None:
    write_disk(shared, 1, 10)
    with Proxy(shared.port) as proxy:
        wrong = credentials(shared, password="canary-wrong")
        with connect(shared, port=proxy.port, account=wrong) as files:
            for _ in range(3):
                with pytest.raises(LoginRefused) as caught:
                    files.open(DISK)
                assert caught.value.context["status"] == 0xC000006D
                assert "canary" not in str(caught.value)
        assert proxy.connections == 1


def test_an_unknown_account_is_refused(shared: Samba) -> None:
    with (
        connect(shared, account=credentials(shared, user="no-such-user")) as files,
        pytest.raises(LoginRefused),
    ):
        files.stat(DISK)


def test_a_guest_is_not_trusted(tmp_path: Path) -> None:
    with Samba(tmp_path / "samba", map_to_guest="bad user", guest_account="nobody") as samba:
        guest = credentials(samba, user="whoever")
        with connect(samba, account=guest) as files, pytest.raises(ProtectionImpossible):
            files.stat(DISK)


def test_a_share_of_others_is_denied(shared: Samba) -> None:
    with connect(shared, paths={"C:\\": "smb://127.0.0.1/Closed"}) as files:
        with pytest.raises(ShareDenied) as caught:
            files.open(DISK)
        assert caught.value.context["share"] == "Closed"


def test_a_file_of_others_is_denied(shared: Samba) -> None:
    (shared.content / "private").write_bytes(b"1")
    (shared.content / "private").chmod(0)
    for parent in [shared.content, *shared.content.parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    reader = STRANGER if os.getuid() == 0 else shared.user  # root may read everything
    with connect(shared, account=credentials(shared, user=reader)) as files:
        with pytest.raises(FileDenied):
            files.open("C:\\private")
        assert files.stat("C:\\private").size == 1
        assert files.open_handles == 0


def test_nobody_at_the_address(shared: Samba) -> None:
    clock = FakeClock()
    with Proxy(shared.port) as proxy:
        port = proxy.port
    with connect(shared, port=port, clock=clock) as files, pytest.raises(HostUnreachable):
        files.open(DISK)
    assert clock.slept == []


# --- how answers are protected --------------------------------------------------


def test_an_old_dialect_is_refused(tmp_path: Path) -> None:
    with (
        Samba(tmp_path / "samba", server_max_protocol="SMB2_02") as samba,
        connect(samba) as files,
        pytest.raises(DialectUnsupported),
    ):
        files.stat(DISK)


def test_a_server_of_smb1_only_is_refused(tmp_path: Path) -> None:
    with (
        Samba(tmp_path / "samba", server_min_protocol="NT1", server_max_protocol="NT1") as samba,
        connect(samba) as files,
        pytest.raises(HostUnreachable),  # it hangs up when SMB 2 is spoken
    ):
        files.stat(DISK)


def test_encryption_that_is_required_and_not_offered(tmp_path: Path) -> None:
    with Samba(tmp_path / "samba", server_smb_encrypt="off") as samba:
        with connect(samba, require_encryption=True) as files, pytest.raises(ProtectionImpossible):
            files.stat(DISK)
        with connect(samba) as files:
            assert files.stat("C:\\").is_folder


def forge_data(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1]) if is_read(frame) else frame


def strip_signature(frame: bytes) -> bytes:
    if not is_read(frame):
        return frame
    flags = struct.unpack_from("<I", frame, 4 + 16)[0] & ~8  # SMB2_FLAGS_SIGNED
    frame = frame[: 4 + 16] + struct.pack("<I", flags) + frame[4 + 20 : 4 + 48] + bytes(16) + frame[4 + 64 :]
    return forge_data(frame)


@pytest.mark.parametrize("attack", [forge_data, strip_signature])
def test_a_forged_answer_is_never_used(attack: Callable[[bytes], bytes], shared: Samba, seed: int) -> None:
    data = write_disk(shared, seed, MIB)
    clock = FakeClock()
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port, clock=clock) as files,
        closing(files.open(DISK)) as file,
    ):
        assert read(file, 0, MIB) == data
        proxy.rewrite = attack
        with pytest.raises(AnswerUntrusted):
            read(file, 0, MIB)
        assert 1 < len(clock.slept) < 20
        proxy.rewrite = lambda frame: frame
        assert read(file, 0, MIB) == data
    shared.wait_until_nothing_is_open()


def test_an_encrypted_answer_that_was_altered_is_never_used(shared: Samba, seed: int) -> None:
    data = write_disk(shared, seed, MIB)
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port, require_encryption=True) as files,
        closing(files.open(DISK)) as file,
    ):
        assert read(file, 0, MIB) == data
        proxy.rewrite = lambda frame: frame[:-1] + bytes([frame[-1] ^ 1]) if len(frame) > MIB else frame
        with pytest.raises(AnswerUntrusted):
            read(file, 0, MIB)
        proxy.rewrite = lambda frame: frame
    shared.wait_until_nothing_is_open()


# --- in nobody's way ------------------------------------------------------------


def test_a_file_held_exclusively_is_in_use(shared: Samba) -> None:
    write_disk(shared, 1, 10)
    clock = FakeClock()
    with held_by_another(shared, "disk.vhdx"), connect(shared, clock=clock) as files:
        with pytest.raises(FileInUse) as caught:
            files.open(DISK)
        assert caught.value.context["status"] == 0xC0000043
        assert 1 < len(clock.slept) < 10
        assert files.stat(DISK).size == 10
        assert files.open_handles == 0


def test_a_file_that_is_let_go_meanwhile_is_opened(shared: Samba, seed: int) -> None:
    data = write_disk(shared, seed, 1000)
    holder = held_by_another(shared, "disk.vhdx")
    holder.__enter__()
    clock = ActingClock(lambda: None, lambda: holder.__exit__(None, None, None))
    with connect(shared, clock=clock) as files, closing(files.open(DISK)) as file:
        assert read(file, 0, 1000) == data
    assert len(clock.slept) == 2


def test_others_may_write_rename_and_delete_through_the_server(shared: Samba) -> None:
    write_disk(shared, 1, 10)
    with connect(shared) as files, closing(files.open(DISK)):
        with held_by_another(shared, "disk.vhdx", sharing="rwd"):
            pass
        cache: dict[str, object] = {}
        options = {
            "username": shared.user,
            "password": PASSWORD,
            "port": shared.port,
            "connection_cache": cache,
        }
        smbclient.rename("\\\\127.0.0.1\\C$\\disk.vhdx", "\\\\127.0.0.1\\C$\\moved.vhdx", **options)
        smbclient.remove("\\\\127.0.0.1\\C$\\moved.vhdx", **options)
        smbclient.reset_connection_cache(connection_cache=cache)
    assert not (shared.content / "moved.vhdx").exists()


def test_the_server_sees_what_is_open_and_nothing_after(shared: Samba) -> None:
    write_disk(shared, 1, 10)
    (shared.content / "other.vhdx").write_bytes(b"1")
    with connect(shared) as files:
        first, second = files.open(DISK), files.open("C:\\other.vhdx")
        assert files.open_handles == 2
        assert shared.open_files() == ["disk.vhdx", "other.vhdx"]
        files.stat(DISK)
        first.identity()
        files.list_folder("C:\\")
        files.read(DISK, 100)
        assert files.open_handles == 2
        first.close()
        assert (files.open_handles, shared.open_files()) == (1, ["other.vhdx"])
        second.close()
        assert (files.open_handles, shared.open_files()) == (0, [])
        files.open(DISK)
        files.close()
        assert (files.open_handles, shared.open_files()) == (0, [])


def test_holes_of_a_sparse_file_are_left_out(shared: Samba, seed: int) -> None:
    """FSCTL_QUERY_ALLOCATED_RANGES, more ranges than one answer holds (4096)."""
    disk = shared.content / "disk.vhdx"
    disk.unlink(missing_ok=True)
    step, count = 2 * MIB, 5000
    with disk.open("wb") as file:
        for number in range(count):
            file.seek(number * step)
            file.write(b"data")
        file.truncate(count * step)
    make_sparse(shared, "disk.vhdx")
    with connect(shared) as files, closing(files.open(DISK)) as opened:
        assert files.stat(DISK).is_sparse
        ranges = list(opened.data_ranges(0, count * step))
        assert len(ranges) == count
        assert all(r.offset == number * step and r.length < MIB for number, r in enumerate(ranges))
        assert list(opened.data_ranges(MIB, 2 * MIB)) == []
        assert list(opened.data_ranges(2 * MIB + 1, 2 * MIB + 3)) == [ByteRange(2 * MIB + 1, 2)]
    disk.unlink()


def make_sparse(samba: Samba, name: str) -> None:
    """Have the server note that a file is sparse (FSCTL_SET_SPARSE), as Windows does."""
    from smbprotocol.ioctl import CtlCode, IOCTLFlags, SMB2IOCTLRequest

    cache: dict[str, object] = {}
    with smbclient.open_file(
        f"\\\\127.0.0.1\\C$\\{name}", mode="r+b", share_access="rwd", username=samba.user, password=PASSWORD,
        port=samba.port, connection_cache=cache, buffering=0,
    ) as file:  # fmt: skip
        raw = file.fd
        request = SMB2IOCTLRequest()
        request["ctl_code"] = CtlCode.FSCTL_SET_SPARSE
        request["file_id"] = raw.file_id
        request["flags"] = IOCTLFlags.SMB2_0_IOCTL_IS_FSCTL
        tree = raw.tree_connect
        raw.connection.receive(raw.connection.send(request, tree.session.session_id, tree.tree_connect_id))
    smbclient.reset_connection_cache(connection_cache=cache)


# --- fast -----------------------------------------------------------------------


def test_four_reads_of_one_mebibyte_are_on_their_way(shared: Samba, seed: int) -> None:
    data = write_disk(shared, seed, 16 * MIB)
    with (
        Proxy(shared.port) as proxy,
        connect(shared, port=proxy.port) as files,
        closing(files.open(DISK)) as file,
    ):
        proxy.latency_s = 0.02
        assert read(file, 0, 16 * MIB) == data
        assert proxy.read_lengths == [MIB] * 16
        assert proxy.most_reads_outstanding == 4


def test_many_threads_share_few_credits(tmp_path: Path, seed: int) -> None:
    """A server that grants 20 credits in all: one large read and a little."""
    with Samba(tmp_path / "samba", smb2_max_credits="20") as samba:
        data = write_disk(samba, seed, 12 * MIB)
        chance = random.Random(seed)
        questions = [(chance.randrange(8 * MIB), chance.choice([1000, MIB, 3 * MIB])) for _ in range(60)]
        with connect(samba) as files, closing(files.open(DISK)) as file, ThreadPoolExecutor(24) as pool:
            for (offset, length), answer in zip(
                questions, pool.map(lambda q: read(file, *q), questions), strict=True
            ):
                assert answer == data[offset : offset + length]
            assert list(pool.map(lambda _: file.size(), range(30))) == [len(data)] * 30


def test_one_connection_serves_all_files(shared: Samba) -> None:
    write_disk(shared, 1, 100)
    with Proxy(shared.port) as proxy, connect(shared, port=proxy.port) as files:
        opened = [files.open(DISK) for _ in range(10)]
        assert [read(file, 0, 1) for file in opened]
        assert proxy.connections == 1


# --- interrupted ----------------------------------------------------------------


def test_a_reading_thread_ends_when_the_host_is_closed(shared: Samba, seed: int) -> None:
    write_disk(shared, seed)
    with Proxy(shared.port) as proxy:
        files = connect(shared, port=proxy.port, timeout_s=5)
        file = files.open(DISK)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                read(file, 0, MIB)
            except (HostUnreachable, ValueError) as error:
                failures.append(error)

        proxy.stall()
        thread = threading.Thread(target=work)
        thread.start()
        files.close()
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert len(failures) == 1


def test_an_interrupt_leaves_no_thread_and_no_handle(shared: Samba, tmp_path: Path) -> None:
    """A process that waits for a silent server ends at once by SIGINT, and the server holds nothing."""
    write_disk(shared, 1)
    script = tmp_path / "reader.py"
    script.write_text(
        "import signal, sys\n"
        # Tests that a shell has started in the background are born deaf to SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from vmkeep.host.files.credentials import Credentials\n"
        "from vmkeep.host.files.host_files import HostFiles\n"
        "from vmkeep.host.files.paths import PathMap\n"
        "from vmkeep.secrets import Secret\n"
        "user, password, port = sys.argv[1:]\n"
        "with HostFiles('127.0.0.1', int(port), Credentials(user, Secret(password), 'ntlm'), PathMap(),\n"
        "               timeout_s=2) as files:\n"
        "    file = files.open('C:\\\\disk.vhdx')\n"
        "    print('open', flush=True)\n"
        "    while True:\n"
        "        file.read_into(0, memoryview(bytearray(1 << 20)))\n"
    )
    root = Path(__file__).resolve().parents[3]
    with Proxy(shared.port) as proxy:
        process = subprocess.Popen(
            [sys.executable, script, shared.user, PASSWORD, str(proxy.port)],
            cwd=root,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            proxy.stall()
            process.send_signal(2)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert said.rstrip().endswith("KeyboardInterrupt")
        proxy.resume()
    shared.wait_until_nothing_is_open()


def test_sockets_may_have_large_numbers(shared: Samba, seed: int) -> None:
    """``select`` knows 1024 descriptors; the limit of this process may be higher."""
    import resource

    data = write_disk(shared, seed, MIB)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1300:
        pytest.fail("this machine allows too few open files for the test")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1300), hard))
    taken: list[int] = []
    try:
        while not taken or taken[-1] < 1024:
            taken.append(os.open("/dev/null", os.O_RDONLY))
        with connect(shared) as files, closing(files.open(DISK)) as file:
            assert read(file, 0, MIB) == data
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
