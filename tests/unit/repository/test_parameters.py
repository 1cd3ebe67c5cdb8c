"""The object `format`: what vmkeep wrote is read, anything else is named and refused."""

import json
from typing import Any

import pytest
from blake3 import blake3

from vmkeep.objectstore.memory import MemoryStore
from vmkeep.repository.errors import NotARepository, RepositoryTooNew, Tampered
from vmkeep.repository.parameters import Parameters, canonical, specification_text
from vmkeep.repository.repository import read_parameters

pytestmark = pytest.mark.quick

# docs/format.md section 3, written out by hand.
FIELDS: dict[str, Any] = {
    "format": "vmkeep repository",
    "version": 1,
    "repository": "000102030405060708090a0b0c0d0e0f",
    "created": "2026-03-29T00:30:00.000000Z",
    "chunk_size": 65536,
    "leaf_chunks": 64,
    "fanout": 1024,
    "pack_size": 67108864,
    "put_if_absent": True,
    "specification": {"name": "spec.md", "blake3": "ab" * 32},
    "generation": 1,
}


def _decode(fields: object) -> Parameters:
    return Parameters.decode(json.dumps(fields).encode(), "memory:")


def test_written_out_by_hand() -> None:
    parameters = _decode(FIELDS)
    assert parameters.repository == bytes(range(16))
    assert (parameters.chunk_size, parameters.leaf_size, parameters.pack_size) == (65536, 4 << 20, 64 << 20)
    assert Parameters.decode(parameters.encode(), "memory:") == parameters
    assert json.loads(parameters.encode()) == FIELDS


def test_digest_covers_everything_but_the_generation() -> None:
    without = {k: v for k, v in FIELDS.items() if k != "generation"}
    text = json.dumps(without, sort_keys=True, separators=(",", ":")).encode("ascii")
    parameters = _decode(FIELDS)
    assert parameters.digest() == blake3(text).digest()
    assert _decode(FIELDS | {"generation": 2}).digest() == parameters.digest()
    for changed in (
        {"chunk_size": 32768},
        {"put_if_absent": False},
        {"created": "2027"},
        {"pack_size": 1 << 20},
    ):
        assert _decode(FIELDS | changed).digest() != parameters.digest()


def test_canonical_json() -> None:
    assert canonical({"b": [1, None, True], "a": "\u00e9"}) == b'{"a":"\\u00e9","b":[1,null,true]}'


def test_newer_version_is_not_understood_but_named() -> None:
    with pytest.raises(RepositoryTooNew, match="version 2"):
        _decode({"format": "vmkeep repository", "version": 2, "everything else": "may differ"})


@pytest.mark.parametrize("foreign", [{}, {"format": "qcow2"}, {"a": 1}, [], [1, 2], "text", 5, None])
def test_foreign_json_is_no_repository(foreign: object) -> None:
    with pytest.raises(NotARepository, match="memory:"):
        _decode(foreign)


def test_large_foreign_file_is_no_repository() -> None:
    with pytest.raises(NotARepository):
        Parameters.decode(b" " * (64 << 10) + b"{}", "memory:")


@pytest.mark.parametrize(
    "altered",
    [
        {"version": 0}, {"version": "1"}, {"version": 1.0}, {"version": True}, {"version": None},
        {"repository": "00"}, {"repository": FIELDS["repository"].upper()}, {"repository": 5},
        {"repository": "zz" * 16}, {"chunk_size": 8192}, {"chunk_size": 65537}, {"chunk_size": 2097152},
        {"chunk_size": -65536}, {"chunk_size": 65536.0}, {"chunk_size": "65536"}, {"chunk_size": True},
        {"leaf_chunks": 128}, {"fanout": 512}, {"pack_size": 0}, {"pack_size": 1 << 40}, {"pack_size": 1e6},
        {"put_if_absent": 1}, {"put_if_absent": "yes"}, {"specification": None}, {"specification": {}},
        {"specification": {"name": "other.md", "blake3": "ab" * 32}}, {"generation": 0}, {"generation": "1"},
        {"generation": 1.5}, {"extra": 1}, {"created": 5},
    ],
    ids=str,
)  # fmt: skip
def test_altered_values_are_refused(altered: dict[str, object]) -> None:
    with pytest.raises(Tampered) as caught:
        _decode(FIELDS | altered)
    assert caught.value.context["object"] == "format"


@pytest.mark.parametrize("key", [key for key in FIELDS if key != "format"])
def test_missing_values_are_refused(key: str) -> None:
    with pytest.raises(Tampered):
        _decode({k: v for k, v in FIELDS.items() if k != key})


@pytest.mark.parametrize("stored", [b"", b"{", b"\xff\xfe", b"[" * 60000, json.dumps(FIELDS).encode()[:-9]])
def test_what_is_no_json_is_refused(stored: bytes) -> None:
    with pytest.raises((Tampered, NotARepository)) as caught:
        Parameters.decode(stored, "memory:")
    assert "format" in caught.value.message


def test_every_flipped_bit_is_noticed_or_changes_the_digest() -> None:
    parameters = _decode(FIELDS)
    stored = parameters.encode()
    for bit in range(len(stored) * 8):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            read = Parameters.decode(bytes(damaged), "memory:")
        except (Tampered, NotARepository, RepositoryTooNew):
            continue
        # White space, and the generation, which is a hint by definition.
        harmless = read.digest() == parameters.digest()
        assert not harmless or read.generation != 1 or json.loads(damaged) == FIELDS


def test_empty_store_is_no_repository() -> None:
    with pytest.raises(NotARepository, match="memory:"):
        read_parameters(MemoryStore())


def test_specification_is_the_page_in_the_source_tree() -> None:
    assert specification_text().startswith(b"# The vmkeep repository, format version 1")
