"""Take apart what an SMB server answers: byte layouts only, every bound checked.

Offsets inside answers count from the SMB2 header, which is 64 bytes long and
not part of the ``body`` given here ([MS-SMB2] 2.2).
"""

import struct
from collections.abc import Iterator
from typing import Final

from vmkeep.host.files.facts import FileFacts, FileIdentity, FolderEntry
from vmkeep.ranges import ByteRange

_HEADER: Final = 64

FILE_ATTRIBUTE_DIRECTORY: Final = 0x10
FILE_ATTRIBUTE_SPARSE_FILE: Final = 0x200
FILE_ATTRIBUTE_REPARSE_POINT: Final = 0x400

# [MS-FSCC] 2.4.2: FileBasicInformation (4 times, attributes, reserved), FileStandardInformation
# (allocation, end of file, links, delete pending, directory, reserved), FileInternalInformation.
_ALL_INFORMATION: Final = struct.Struct("<4Q2I 2QI2BH Q")
_VOLUME_INFORMATION: Final = struct.Struct("<QI")  # [MS-FSCC] 2.5.9: creation time, serial number
# [MS-FSCC] 2.4.17, up to the name: next entry, index, 4 times, end of file, allocation, attributes,
# length of the name, extended attributes, length of the short name, short name, file id.
_DIRECTORY_ENTRY: Final = struct.Struct("<2I4Q2Q3IBB24sHQ")
_ALLOCATED_RANGE: Final = struct.Struct("<qq")  # [MS-FSCC] 2.3.52
_NO_INDEX: Final = 0xFFFF_FFFF_FFFF_FFFF  # [MS-FSCC] 2.1.10: the id does not fit into 64 bits


class MalformedAnswer(Exception):
    """The answer breaks the rules of SMB."""


def file_id_of(create: bytes) -> bytes:
    """Return the 16 bytes that name an open file, from the answer to CREATE ([MS-SMB2] 2.2.14)."""
    return _cut(create, 64, 16)


def read_data(read: bytes, asked: int) -> memoryview:
    """Return the bytes a READ brought ([MS-SMB2] 2.2.20); never more than ``asked``."""
    offset, _, length = struct.unpack("<BBI", _cut(read, 2, 6))
    if length > asked or offset < _HEADER + 16 or offset - _HEADER + length > len(read):
        raise MalformedAnswer(f"a read of {asked} bytes was answered with {length} at {offset}")
    return memoryview(read)[offset - _HEADER : offset - _HEADER + length]


def query_output(body: bytes) -> bytes:
    """Return the output of QUERY_INFO or QUERY_DIRECTORY ([MS-SMB2] 2.2.38, 2.2.34)."""
    offset, length = struct.unpack("<HI", _cut(body, 2, 6))
    return _cut(body, offset - _HEADER, length)


def control_output(body: bytes) -> bytes:
    """Return the output of IOCTL ([MS-SMB2] 2.2.32)."""
    offset, length = struct.unpack("<II", _cut(body, 32, 8))
    return _cut(body, offset - _HEADER, length) if length else b""


def facts_of(all_information: bytes, volume: int) -> FileFacts:
    """Return what FileAllInformation says of a file on the volume with this serial number."""
    fields = _ALL_INFORMATION.unpack(_cut(all_information, 0, _ALL_INFORMATION.size))
    _, _, written, changed, attributes, _, _, size, _, _, folder, _, index = fields
    return FileFacts(
        FileIdentity(volume, 0 if index == _NO_INDEX else index, size, written, changed),
        is_folder=bool(folder),
        is_sparse=bool(attributes & FILE_ATTRIBUTE_SPARSE_FILE),
    )


def volume_serial(volume_information: bytes) -> int:
    """Return the serial number from FileFsVolumeInformation."""
    return int(_VOLUME_INFORMATION.unpack(_cut(volume_information, 0, _VOLUME_INFORMATION.size))[1])


def folder_entries(output: bytes) -> Iterator[FolderEntry]:
    """Yield the entries of one answer to QUERY_DIRECTORY, those for the folder itself left out."""
    at = 0
    while True:
        fields = _DIRECTORY_ENTRY.unpack(_cut(output, at, _DIRECTORY_ENTRY.size))
        step, size, attributes, name_length = fields[0], fields[6], fields[8], fields[9]
        # NTFS keeps any 16-bit units as a name, also halves of a pair.
        encoded = _cut(output, at + _DIRECTORY_ENTRY.size, name_length // 2 * 2)
        name = encoded.decode("utf-16-le", "surrogatepass")
        if not name or "\\" in name or "/" in name or "\0" in name:
            raise MalformedAnswer("a folder holds an impossible name")
        if name not in {".", ".."}:
            yield FolderEntry(
                name,
                size,
                is_folder=bool(attributes & FILE_ATTRIBUTE_DIRECTORY),
                is_link=bool(attributes & FILE_ATTRIBUTE_REPARSE_POINT),
            )
        if not step:
            return
        if step < _DIRECTORY_ENTRY.size:
            raise MalformedAnswer("entries of a folder overlap")
        at += step


def range_question(start: int, end: int) -> bytes:
    """Return the input of FSCTL_QUERY_ALLOCATED_RANGES ([MS-FSCC] 2.3.51)."""
    return _ALLOCATED_RANGE.pack(start, end - start)


def allocated_ranges(output: bytes, start: int) -> list[ByteRange]:
    """Return the ranges in the answer to FSCTL_QUERY_ALLOCATED_RANGES asked from ``start`` on."""
    if len(output) % _ALLOCATED_RANGE.size:
        raise MalformedAnswer("a list of ranges ends in the middle of one")
    ranges = []
    at = start
    for offset, length in _ALLOCATED_RANGE.iter_unpack(output):
        # A file system answers in its own units: the first range may begin before what was asked.
        if length <= 0 or offset < 0 or offset + length <= at:
            raise MalformedAnswer("a list of ranges does not ascend")
        ranges.append(ByteRange(offset, length))
        at = offset + length
    return ranges


def _cut(data: bytes, offset: int, length: int) -> bytes:
    if offset < 0 or offset + length > len(data):
        raise MalformedAnswer(f"{length} bytes at {offset} are promised, {len(data)} are there")
    return data[offset : offset + length]
