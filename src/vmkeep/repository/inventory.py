"""Tell parties without keys which packs must be there. `docs/format.md` section 10."""

from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from vmkeep.repository.errors import Tampered
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.packs import PackRef

PREFIX: Final = "inventory/"
_TITLE: Final = "vmkeep inventory 1"


def inventory_name(run: str, number: int) -> str:
    """Return the object name of a run's inventory; a run that had to store more writes a second one."""
    return f"{PREFIX}{run}" if number == 0 else f"{PREFIX}{run}.{number}"


@dataclass(frozen=True)
class Inventory:
    """What one run added (name, size, checksum), what it relied on of others, and what it removed."""

    added: tuple[tuple[str, int, bytes], ...]
    relied: tuple[str, ...]
    removed: tuple[str, ...]


def encode_inventory(ring: KeyRing, name: str, inventory: Inventory) -> bytes:
    """Return the text of the inventory object ``name``."""
    lines = [f"{_TITLE} {ring.repository.hex()} {name}"]
    lines += [f"+ {name} {size} {checksum.hex()}" for name, size, checksum in inventory.added]
    lines += [f"= {name}" for name in inventory.relied]
    lines += [f"- {name}" for name in inventory.removed]
    text = "\n".join(lines) + "\n"
    text += f"mac {blake3(text.encode(), key=ring.inventory_key).hexdigest()}\n"
    return (text + f"sum {blake3(text.encode()).hexdigest()}\n").encode()


def decode_inventory(name: str, stored: bytes, repository: bytes, ring: KeyRing | None) -> Inventory:
    """Read an inventory; with keys also prove who wrote it. Raises Tampered."""
    try:
        text = stored.decode("ascii")
        body, mac, total, end = text.rsplit("\n", 3)
        title, *lines = body.split("\n")
        below_mac, below_sum = f"{body}\n".encode(), f"{body}\n{mac}\n".encode()
        if end or total != f"sum {blake3(below_sum).hexdigest()}":
            raise ValueError("wrong sum")
        if title != f"{_TITLE} {repository.hex()} {name}":
            raise ValueError("another run's or repository's")
        if ring is not None and mac != f"mac {blake3(below_mac, key=ring.inventory_key).hexdigest()}":
            raise ValueError("wrong mac")
        added, relied, removed = [], [], []
        for line in lines:
            mark, *fields = line.split(" ")
            if mark == "+":
                pack, size, checksum = fields
                added.append((pack, int(size), bytes.fromhex(checksum)))
            elif mark == "=":
                relied += fields
            elif mark == "-":
                removed += fields
            else:
                raise ValueError("unknown line")
        if not all(map(PackRef.from_name, [*relied, *removed, *(pack for pack, _, _ in added)])):
            raise ValueError("names something that is no pack")
    except ValueError as error:
        raise Tampered(f"the inventory {name} is damaged or forged.", object=name) from error
    return Inventory(tuple(added), tuple(relied), tuple(removed))
