"""Images of disks with real file systems, by name; made by ``tools/make_lab_image.py``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import IO, Any

import zstandard


@dataclass(frozen=True)
class Image:
    """A raw disk of ``size`` bytes, whose guest writes only ``work_size`` bytes from ``work_start``."""

    name: str
    size: int
    work_start: int
    work_size: int

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the disk's bytes for reading from first to last."""
        packed = resources.files(__package__).joinpath(f"{self.name}.zst")
        with packed.open("rb") as source, zstandard.ZstdDecompressor().stream_reader(source) as stream:
            yield stream


def image_names() -> list[str]:
    """Return the names of all images."""
    names = (each.name for each in resources.files(__package__).iterdir())
    return sorted(name.removesuffix(".zst") for name in names if name.endswith(".zst"))


@cache
def image(name: str) -> Image:
    """Return what is known of an image. LookupError where there is none of that name."""
    if name not in image_names():
        raise LookupError(name)
    text = resources.files(__package__).joinpath(f"{name}.json").read_text("utf-8")
    about: dict[str, Any] = json.loads(text)
    return Image(name, about["size"], *about["work"])
