"""What every way to a host's files promises: a share of a real server, or a mounted folder."""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.hostfiles.places import Place, host_path
from vmkeep.formats.source import Source
from vmkeep.host.files.errors import (
    BadHostPath,
    FileMissing,
    FileTooLarge,
    LinkRefused,
    ShareMissing,
)
from vmkeep.host.files.facts import FolderEntry, HostFile
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap
from vmkeep.ranges import ByteRange, normalise

MIB = 1 << 20
GIB = 1 << 30


def read(file: HostFile, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: file.read_into(offset, memoryview(buffer))])


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def test_reads_what_is_there(place: Place, files: HostFiles, seed: int) -> None:
    data = noise(seed, 9 * MIB + 12345)
    with closing(files.open(place.make("VMs/web/disk.vhdx", data))) as file:
        assert file.size() == len(data)
        assert read(file, 0, len(data)) == data
        for offset, length in (
            (0, 1),
            (1, MIB),
            (MIB - 1, 2),
            (3 * MIB + 7, 5 * MIB + 1),
            (len(data) - 1, 1),
        ):
            assert read(file, offset, length) == data[offset : offset + length]
        assert file.name == "C:\\VMs\\web\\disk.vhdx"


def test_is_short_only_at_the_end(place: Place, files: HostFiles, seed: int) -> None:
    data = noise(seed, 2 * MIB + 100)
    with closing(files.open(place.make("a.vhdx", data))) as file:
        assert read(file, 0, 7 * MIB) == data
        assert read(file, MIB, 7 * MIB) == data[MIB:]
        assert read(file, len(data) - 1, 10) == data[-1:]
        assert read(file, len(data), 10) == b""
        assert read(file, len(data) + 5 * GIB, 10) == b""
        assert read(file, 5, 0) == b""


def test_leaves_the_rest_of_the_buffer_alone(place: Place, files: HostFiles) -> None:
    with closing(files.open(place.make("a.bin", b"abc"))) as file:
        buffer = bytearray(b"......")
        assert file.read_into(1, memoryview(buffer)) == 2
        assert buffer == b"bc...."


def test_an_empty_file_is_empty(place: Place, files: HostFiles) -> None:
    with closing(files.open(place.make("empty", b""))) as file:
        assert file.size() == 0
        assert read(file, 0, 10) == b""
        assert list(file.data_ranges(0, 0)) == []


def test_reads_beyond_four_gibibytes(place: Place, files: HostFiles, seed: int) -> None:
    path = place.make("large.vhdx", b"")
    data = noise(seed, 3 * MIB)
    with (place.content / "large.vhdx").open("r+b") as disk:
        disk.truncate(5 * GIB)
        disk.seek(4 * GIB - MIB)
        disk.write(data)
    with closing(files.open(path)) as file:
        assert file.size() == 5 * GIB
        assert read(file, 4 * GIB - 2 * MIB, 5 * MIB) == bytes(MIB) + data + bytes(MIB)
        assert read(file, 5 * GIB - 10, 20) == bytes(10)


def test_ranges_hold_all_data(place: Place, files: HostFiles, seed: int) -> None:
    path = place.make("sparse.vhdx", b"")
    pieces = {0: noise(seed, 4096), 64 * MIB: noise(seed + 1, MIB), 200 * MIB + 4096: noise(seed + 2, 8192)}
    with (place.content / "sparse.vhdx").open("r+b") as disk:
        disk.truncate(300 * MIB)
        for offset, data in pieces.items():
            disk.seek(offset)
            disk.write(data)
    with closing(files.open(path)) as file:
        ranges = list(file.data_ranges(0, 300 * MIB))
        assert ranges == normalise(ranges)
        for offset, data in pieces.items():
            assert any(r.offset <= offset and offset + len(data) <= r.end for r in ranges)
        assert all(r.offset >= 65 * MIB and r.end <= 66 * MIB for r in file.data_ranges(65 * MIB, 66 * MIB))


def test_size_is_asked_anew_and_a_cut_file_reads_short(place: Place, files: HostFiles, seed: int) -> None:
    data = noise(seed, 6 * MIB)
    with closing(files.open(place.make("a.vhdx", data))) as file:
        assert file.size() == 6 * MIB
        os.truncate(place.content / "a.vhdx", 2 * MIB + 1)
        assert file.size() == 2 * MIB + 1
        assert read(file, 0, 6 * MIB) == data[: 2 * MIB + 1]
        assert read(file, 5 * MIB, MIB) == b""


def test_identity_stays_while_nobody_writes(place: Place, files: HostFiles, seed: int) -> None:
    with closing(files.open(place.make("a.vhdx", noise(seed, MIB)))) as file:
        before = file.identity()
        assert len(before) == 5
        read(file, 0, MIB)
        assert file.identity() == before
        assert files.stat(file.name).identity == before
        with place.connect() as others:
            assert others.stat(file.name).identity == before


@pytest.mark.parametrize("how", ["written", "resized", "replaced"])
def test_identity_differs_when_a_file_was(how: str, place: Place, files: HostFiles, seed: int) -> None:
    data = noise(seed, MIB)
    with closing(files.open(place.make("a.vhdx", data))) as file:
        before = files.stat(file.name).identity
        target = place.content / "a.vhdx"
        stamp = target.stat()
        if how == "written":
            place.overwrite("a.vhdx", b"x")
        elif how == "resized":
            with target.open("ab") as disk:
                disk.write(b"x")
            os.utime(target, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        else:
            (place.content / "b.vhdx").write_bytes(data)
            os.utime(place.content / "b.vhdx", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
            os.replace(place.content / "b.vhdx", target)
        assert not files.stat(file.name).identity.is_same_file(before)
        assert file.identity() != before


def test_many_threads_read_one_file(place: Place, files: HostFiles, seed: int) -> None:
    data = noise(seed, 8 * MIB)
    chance = random.Random(seed)
    questions = [(chance.randrange(len(data)), chance.choice([1, 4096, 65536, 3 * MIB])) for _ in range(160)]
    with closing(files.open(place.make("a.vhdx", data))) as file, ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda question: read(file, *question), questions)
        for (offset, length), answer in zip(questions, answers, strict=True):
            assert answer == data[offset : offset + length]


def test_many_files_are_open_at_once(place: Place, files: HostFiles, seed: int) -> None:
    contents = [noise(seed + number, 70_000 + number) for number in range(20)]
    opened = [files.open(place.make(f"{number}.vhdx", data)) for number, data in enumerate(contents)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda file: read(file, 0, MIB), opened)) == contents


@pytest.mark.parametrize(
    "name",
    [
        "日本語 диск.vhdx",
        "Ünïcödé/😀😀.vhdx",
        "a'b $(reboot) `x` ;&.vhdx",
        "%41%2e%2e.vhdx",
        "@GMT-2026.11.28-00.00.00",
        "right\u202eleft.vhdx",
        "[red]<".replace("<", "") + ".vhdx",
        "x" * 200,
    ],
)
def test_odd_names_are_just_names(name: str, place: Place, files: HostFiles) -> None:
    path = place.make(f"VMs/{name}", name.encode())
    assert files.exists(path)
    assert files.read(path, 4096) == name.encode()


@pytest.mark.parametrize(
    "name", ["..\\secret", "a\\..\\..\\secret", "a:stream", "a.", "a ", "NUL", "com1.vhdx", "a*"]
)
def test_hostile_names_never_reach_the_host(name: str, place: Place, files: HostFiles) -> None:
    place.make("a", b"")
    with pytest.raises(BadHostPath):
        files.open(f"C:\\{name}")


def test_links_lead_nowhere_else(place: Place, files: HostFiles, tmp_path: Path) -> None:
    secret = tmp_path / "secret"  # outside of what is shared or mapped
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    place.make("VMs/a", b"a")
    (place.content / "VMs" / "out").symlink_to(secret)
    (place.content / "VMs" / "out-file").symlink_to(secret / "file")
    for path in ("C:\\VMs\\out\\file", "C:\\VMs\\out-file"):
        # A server may say that there is nothing; that is as good.
        with pytest.raises((LinkRefused, FileMissing)) as caught:
            files.open(path)
        assert "secret" not in str(caught.value)


def test_lists_a_folder(place: Place, files: HostFiles) -> None:
    place.make("VMs/web/a.vhdx", b"12345")
    place.make("VMs/web/Ä 😀.vmcx", b"")
    place.make("VMs/web/deeper/b", b"")
    assert files.list_folder("C:\\VMs\\web") == [
        FolderEntry("a.vhdx", 5, is_folder=False, is_link=False),
        FolderEntry("deeper", files.stat("C:\\VMs\\web\\deeper").size, is_folder=True, is_link=False),
        FolderEntry("Ä 😀.vmcx", 0, is_folder=False, is_link=False),
    ]
    assert files.list_folder("C:\\VMs\\web\\deeper") == [FolderEntry("b", 0, is_folder=False, is_link=False)]


def test_lists_a_folder_of_many_names(place: Place, files: HostFiles) -> None:
    names = sorted(f"{number:04} {'long name ' * 10}.avhdx" for number in range(1200))
    for name in names:
        place.make(f"many/{name}", b"")
    assert [entry.name for entry in files.list_folder("C:\\many")] == names


def test_tells_what_is_not_there(place: Place, files: HostFiles) -> None:
    place.make("VMs/a", b"")
    for path in ("C:\\VMs\\b", "C:\\none\\b", "C:\\VMs\\a\\b"):
        assert not files.exists(path)
        with pytest.raises(FileMissing) as caught:
            files.open(path)
        assert caught.value.context["path"] == path
        with pytest.raises(FileMissing):
            files.stat(path)
    with pytest.raises(FileMissing):
        files.list_folder("C:\\none")


def test_a_folder_is_no_file_and_a_file_no_folder(place: Place, files: HostFiles) -> None:
    place.make("VMs/a", b"1")
    with pytest.raises(BadHostPath):
        files.open("C:\\VMs")
    with pytest.raises(FileMissing):
        files.list_folder("C:\\VMs\\a")
    assert files.stat("C:\\VMs").is_folder
    assert not files.stat("C:\\VMs\\a").is_folder
    assert files.exists("C:\\VMs")


def test_reads_small_files_up_to_a_limit(place: Place, files: HostFiles) -> None:
    path = place.make("a.vmcx", b"x" * 1000)
    assert files.read(path, 1000) == b"x" * 1000
    with pytest.raises(FileTooLarge):
        files.read(path, 999)
    assert files.read(place.make("empty", b""), 0) == b""


def test_closing_is_final_and_may_be_repeated(place: Place, files: HostFiles) -> None:
    file = files.open(place.make("a", b"1"))
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        read(file, 0, 1)
    assert files.open_handles == 0


def test_closing_the_host_closes_every_file(place: Place) -> None:
    files = place.connect()
    opened = [files.open(place.make(f"{number}", b"1")) for number in range(5)]
    files.close()
    files.close()
    assert files.open_handles == 0
    for file in opened:
        with pytest.raises(Exception, match="closed"):
            read(file, 0, 1)
        file.close()


def test_nobody_is_kept_from_the_file(place: Place, files: HostFiles) -> None:
    """The host merges, renames and deletes while we read."""
    with closing(files.open(place.make("a.avhdx", b"old"))) as file:
        with (place.content / "a.avhdx").open("r+b") as other:
            other.write(b"new")
        assert read(file, 0, 3) == b"new"
        (place.content / "a.avhdx").rename(place.content / "b.avhdx")
        assert read(file, 0, 3) == b"new"
        (place.content / "b.avhdx").unlink()
        with pytest.raises(FileMissing):
            file.identity()


def test_the_proof_is_asked_for_when_a_file_is_opened(place: Place, files: HostFiles, seed: int) -> None:
    data = noise(seed, 300_000)
    seen: list[bytes] = []
    with closing(files.open(place.make("a", data), proof=lambda ask: seen.append(ask(65536, 100_000)))):
        assert seen == [data[65536:165536]]


def test_an_error_of_the_proof_leaves_no_handle(place: Place, files: HostFiles) -> None:
    def proof(_: object) -> object:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        files.open(place.make("a", b"1"), proof=proof)
    assert files.open_handles == 0


def test_a_share_or_folder_that_is_missing_is_not_a_missing_file(place: Place) -> None:
    with place.connect() as files:
        rules = {"D:\\": "smb://127.0.0.1/None", "E:\\": (place.content / "none").as_uri()}
        files._paths = PathMap(rules)
        with pytest.raises(ShareMissing):
            files.exists("E:\\a")
        if place.protection:
            with pytest.raises(ShareMissing):
                files.exists("D:\\a")


def test_is_a_source_of_formats(place: Place, files: HostFiles) -> None:
    with closing(files.open(place.make("a", b"1"))) as file:
        source: Source = file  # what mypy looks at
        assert isinstance(source, Source)


def test_no_thread_is_left(place: Place) -> None:
    before = set(threading.enumerate())
    with place.connect() as files:
        files.read(place.make("a", b"1"), 10)
    assert set(threading.enumerate()) <= before


def test_protection_is_what_was_agreed(place: Place, files: HostFiles) -> None:
    assert files.protection(host_path("")) == place.protection


def test_ranges_of_a_hole_are_none(place: Place, files: HostFiles) -> None:
    path = place.make("hole", b"")
    os.truncate(place.content / "hole", 64 * MIB)
    with closing(files.open(path)) as file:
        found = list(file.data_ranges(0, 64 * MIB))
        assert found in ([], [ByteRange(0, 64 * MIB)])  # a server that does not call it sparse says all
