"""An inventory says what must be there, to those with keys and to those without."""

import pytest
from blake3 import blake3

from vmkeep.repository.errors import Tampered
from vmkeep.repository.inventory import Inventory, decode_inventory, encode_inventory, inventory_name
from vmkeep.repository.keys import KeyRing

pytestmark = pytest.mark.quick

RING = KeyRing(bytes(range(32)), b"\2" * 16)
NAME = "inventory/" + "ab" * 16
PACK, OLD, GONE = "packs/aa/" + "aa" * 16, "packs/bb/" + "bb" * 16, "maps/cc/" + "cc" * 16
INVENTORY = Inventory(((PACK, 4711, b"\7" * 32),), (OLD,), (GONE,))
STORED = encode_inventory(RING, NAME, INVENTORY)


def _signed(body: str, ring: KeyRing = RING) -> bytes:
    text = body + f"mac {blake3(body.encode(), key=ring.inventory_key).hexdigest()}\n"
    return (text + f"sum {blake3(text.encode()).hexdigest()}\n").encode()


TITLE = f"vmkeep inventory 1 {'02' * 16} {NAME}\n"


def test_names() -> None:
    assert inventory_name("ab" * 16, 0) == NAME
    assert inventory_name("ab" * 16, 3) == NAME + ".3"


def test_bytes_as_specified() -> None:
    body = TITLE + f"+ {PACK} 4711 {'07' * 32}\n= {OLD}\n- {GONE}\n"
    assert _signed(body) == STORED


@pytest.mark.parametrize("ring", [RING, None], ids=["with key", "without key"])
@pytest.mark.parametrize("inventory", [INVENTORY, Inventory((), (), ())])
def test_what_goes_in_comes_out(ring: KeyRing | None, inventory: Inventory) -> None:
    stored = encode_inventory(RING, NAME, inventory)
    assert decode_inventory(NAME, stored, RING.repository, ring) == inventory


@pytest.mark.parametrize("ring", [RING, None], ids=["with key", "without key"])
def test_every_flip_and_cut_is_noticed(ring: KeyRing | None) -> None:
    for place in range(len(STORED)):
        damaged = bytearray(STORED)
        damaged[place] ^= 1 << place % 8
        for content in (bytes(damaged), STORED[:place]):
            with pytest.raises(Tampered, match=NAME):
                decode_inventory(NAME, content, RING.repository, ring)


def test_forgery_without_key_is_noticed_by_those_with_one() -> None:
    forged = _signed(TITLE, KeyRing(b"\1" * 32, RING.repository))
    assert decode_inventory(NAME, forged, RING.repository, None) == Inventory((), (), ())
    with pytest.raises(Tampered, match=NAME):
        decode_inventory(NAME, forged, RING.repository, RING)


def test_foreign_and_moved_inventories_are_refused() -> None:
    with pytest.raises(Tampered):
        decode_inventory(NAME, STORED, b"\3" * 16, None)
    with pytest.raises(Tampered):
        decode_inventory(NAME + ".1", STORED, RING.repository, None)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "* x",
        "+ name 5",
        "+ name five " + "00" * 32,
        "+ name 5 zz",
        "+ name 5 " + "00" * 32 + " more",
        "+",
    ],
)
def test_unknown_lines_are_refused(line: str) -> None:
    with pytest.raises(Tampered, match=NAME):
        decode_inventory(NAME, _signed(f"{TITLE}{line}\n"), RING.repository, RING)


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n\n", b"\xff\n\n\n", b"x" * 100])
def test_junk_is_refused(content: bytes) -> None:
    with pytest.raises(Tampered, match=NAME):
        decode_inventory(NAME, content, RING.repository, None)
