"""Answers laid out by hand from [MS-SMB2] 2.2 and [MS-FSCC] 2.4, and broken in each way."""

import struct

import pytest

from vmkeep.host.files import answers
from vmkeep.host.files.answers import MalformedAnswer
from vmkeep.host.files.facts import FileIdentity, FolderEntry
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick


def read_answer(data: bytes, *, offset: int = 80, length: int | None = None) -> bytes:
    """[MS-SMB2] 2.2.20: size 17, offset, reserved, length, remaining, reserved, data."""
    head = struct.pack("<HBBIII", 17, offset, 0, len(data) if length is None else length, 0, 0)
    return head + bytes(offset - 80) + data


def entry(name: str, *, step: int, size: int = 7, attributes: int = 0) -> bytes:
    """[MS-FSCC] 2.4.17, field by field."""
    encoded = name.encode("utf-16-le", "surrogatepass")
    fields = [
        struct.pack("<II", step, 0),
        struct.pack("<QQQQ", 1, 2, 3, 4),
        struct.pack("<QQ", size, 4096),
        struct.pack("<III", attributes, len(encoded), 0),
        struct.pack("<BB", 0, 0),
        bytes(24),
        struct.pack("<HQ", 0, 99),
        encoded,
    ]
    return b"".join(fields).ljust(step, b"\0")


def all_information(*, index: int = 77, attributes: int = 0x20, folder: int = 0) -> bytes:
    """[MS-FSCC] 2.4.2: basic, standard and internal information, then what is not looked at."""
    basic = struct.pack("<QQQQII", 11, 12, 13, 14, attributes, 0)
    standard = struct.pack("<QQIBBH", 1 << 20, 5 << 32, 1, 0, folder, 0)
    return basic + standard + struct.pack("<Q", index) + bytes(24)


def test_the_number_of_an_open_file() -> None:
    # [MS-SMB2] 2.2.14: 64 bytes, then FileId.
    assert answers.file_id_of(bytes(64) + b"0123456789abcdef" + bytes(8)) == b"0123456789abcdef"
    with pytest.raises(MalformedAnswer):
        answers.file_id_of(bytes(79))


def test_data_that_was_read() -> None:
    assert bytes(answers.read_data(read_answer(b"abc"), 3)) == b"abc"
    assert bytes(answers.read_data(read_answer(b"abc", offset=96), 5)) == b"abc"
    assert bytes(answers.read_data(read_answer(b""), 5)) == b""


@pytest.mark.parametrize(
    "body",
    [
        read_answer(b"abcd"),  # more than was asked for
        read_answer(b"abc", length=4),  # beyond the end
        read_answer(b"abc", length=0xFFFFFFFF),
        b"\x11\x00\x10\x00" + bytes(12) + b"abc",  # data that begin inside the header
        b"\x11\x00",
        b"",
    ],
)
def test_data_that_cannot_be(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        bytes(answers.read_data(body, 3))[3]


def test_facts_of_a_file() -> None:
    facts = answers.facts_of(all_information(attributes=0x220), 5)
    assert facts.identity == FileIdentity(volume=5, number=77, size=5 << 32, written=13, changed=14)
    assert (facts.size, facts.is_folder, facts.is_sparse) == (5 << 32, False, True)
    assert answers.facts_of(all_information(folder=1, attributes=0x10), 5).is_folder
    assert not answers.facts_of(all_information(), 5).is_sparse


def test_a_number_that_does_not_fit_is_none() -> None:
    assert answers.facts_of(all_information(index=(1 << 64) - 1), 5).identity.number == 0


def test_facts_that_are_cut() -> None:
    with pytest.raises(MalformedAnswer):
        answers.facts_of(all_information()[:71], 5)
    with pytest.raises(MalformedAnswer):
        answers.volume_serial(bytes(11))


def test_volume_serial() -> None:
    assert answers.volume_serial(struct.pack("<QIIBB", 1, 0xCAFE, 0, 0, 0)) == 0xCAFE


def test_entries_of_a_folder() -> None:
    output = (
        entry(".", step=112, attributes=0x10)
        + entry("..", step=112, attributes=0x10)
        + entry("Disk 1.vhdx", step=128)
        + entry("folder", step=120, attributes=0x10, size=0)
        + entry("li\ud800nk", step=0, attributes=0x400)
    )
    assert list(answers.folder_entries(output)) == [
        FolderEntry("Disk 1.vhdx", 7, is_folder=False, is_link=False),
        FolderEntry("folder", 0, is_folder=True, is_link=False),
        FolderEntry("li\ud800nk", 7, is_folder=False, is_link=True),
    ]


@pytest.mark.parametrize(
    "output",
    [
        b"",
        entry("a", step=0)[:-1],
        entry("a", step=120),  # the next one is not there
        entry("a", step=8),  # overlaps itself
        entry("..\\x", step=0),
        entry("a/b", step=0),
        entry("a\0b", step=0),
        entry("", step=0),
    ],
)
def test_entries_that_cannot_be(output: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        list(answers.folder_entries(output))


def test_outputs() -> None:
    query = struct.pack("<HHI", 9, 72, 3) + b"abc"  # [MS-SMB2] 2.2.38
    assert answers.query_output(query) == b"abc"
    # [MS-SMB2] 2.2.32: size, reserved, code, file id, input offset and count, output offset and count, ...
    control = struct.pack("<HHI16sIIIIII", 49, 0, 0x940CF, bytes(16), 0, 0, 112, 3, 0, 0) + b"abc"
    assert answers.control_output(control) == b"abc"
    for broken in (query[:-1], b"", struct.pack("<HHI", 9, 8, 3) + b"abc"):
        with pytest.raises(MalformedAnswer):
            answers.query_output(broken)
    with pytest.raises(MalformedAnswer):
        answers.control_output(control[:-1])


def test_allocated_ranges() -> None:
    output = struct.pack("<qqqq", 0, 4096, 1 << 40, 10)
    assert answers.allocated_ranges(output, 0) == [ByteRange(0, 4096), ByteRange(1 << 40, 10)]
    assert answers.allocated_ranges(b"", 0) == []
    assert answers.range_question(5, 15) == struct.pack("<qq", 5, 10)


@pytest.mark.parametrize(
    "output",
    [
        b"123",
        struct.pack("<qq", 0, 0),
        struct.pack("<qq", -1, 10),
        struct.pack("<qq", 0, -10),
        struct.pack("<qqqq", 100, 10, 50, 10),
        struct.pack("<qqqq", 100, 10, 100, 10),
    ],
)
def test_ranges_that_cannot_be(output: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        answers.allocated_ranges(output, 0)
