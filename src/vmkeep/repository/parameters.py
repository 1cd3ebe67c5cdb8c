"""The `format` object: what a repository is, readable by anybody. `docs/format.md` section 3."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from blake3 import blake3

from vmkeep.repository.errors import NotARepository, RepositoryTooNew, Tampered

NAME: Final = "format"
SPECIFICATION_NAME: Final = "spec.md"
VERSION: Final = 1
LEAF_CHUNKS: Final = 64
FANOUT: Final = 1024
_MAX_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Parameters:
    """What every reader and writer of one repository must agree on; sizes in bytes."""

    repository: bytes
    created: str
    chunk_size: int = 64 << 10
    pack_size: int = 64 << 20
    put_if_absent: bool = True
    specification: str = ""
    generation: int = 1

    @property
    def leaf_size(self) -> int:
        return self.chunk_size * LEAF_CHUNKS

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "vmkeep repository",
            "version": VERSION,
            "repository": self.repository.hex(),
            "created": self.created,
            "chunk_size": self.chunk_size,
            "leaf_chunks": LEAF_CHUNKS,
            "fanout": FANOUT,
            "pack_size": self.pack_size,
            "put_if_absent": self.put_if_absent,
            "specification": {"name": SPECIFICATION_NAME, "blake3": self.specification},
            "generation": self.generation,
        }

    def encode(self) -> bytes:
        return (json.dumps(self.to_json(), indent=2) + "\n").encode()

    def digest(self) -> bytes:
        """Return the format hash, which every key object is bound to."""
        return blake3(canonical({k: v for k, v in self.to_json().items() if k != "generation"})).digest()

    @classmethod
    def decode(cls, stored: bytes, address: str) -> Self:
        """Read the object; raises NotARepository, RepositoryTooNew or Tampered, never another."""
        if len(stored) > _MAX_BYTES:
            raise NotARepository(f"{address} holds a file named `format` that is not vmkeep's.")
        try:
            fields = json.loads(stored)
            if not isinstance(fields, dict) or fields.get("format") != "vmkeep repository":
                raise NotARepository(f"{address} holds a file named `format` that is not vmkeep's.")
            if fields["version"] > VERSION:
                raise RepositoryTooNew(
                    f"the repository at {address} has format version {fields['version']}, "
                    f"this vmkeep knows {VERSION}."
                )
            parameters = cls(
                repository=bytes.fromhex(fields["repository"]),
                created=str(fields["created"]),
                chunk_size=fields["chunk_size"],
                pack_size=fields["pack_size"],
                put_if_absent=fields["put_if_absent"],
                specification=str(fields["specification"]["blake3"]),
                generation=fields["generation"],
            )
            # The digest is over what we understood: a field we would drop or
            # read differently must not pass as part of it.
            sound = canonical(fields) == canonical(parameters.to_json()) and parameters._plausible()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Tampered(f"the object `format` at {address} cannot be understood.", object=NAME) from error
        if not sound:
            raise Tampered(f"the object `format` at {address} holds values no vmkeep wrote.", object=NAME)
        return parameters

    def _plausible(self) -> bool:
        chunk = self.chunk_size
        return (
            len(self.repository) == 16
            and type(self.chunk_size) is type(self.pack_size) is type(self.generation) is int
            and type(self.put_if_absent) is bool
            and 16 << 10 <= chunk <= 1 << 20
            and chunk & (chunk - 1) == 0
            and 1 << 16 <= self.pack_size <= 1 << 30
            and self.generation >= 1
        )


def canonical(value: object) -> bytes:
    """Return the one JSON text that stands for ``value``; what digests are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def specification_text() -> bytes:
    """Return the format specification that is copied into each new repository."""
    packaged = Path(__file__).with_name("format.md")
    if packaged.is_file():
        return packaged.read_bytes()
    return (Path(__file__).parents[3] / "docs" / "format.md").read_bytes()  # a source checkout
