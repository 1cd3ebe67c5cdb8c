"""Begin a disk file of any format that can be written."""

from pathlib import Path

from vmkeep.formats.disk import DiskProfile, DiskWriter, Format
from vmkeep.formats.errors import UnsupportedDisk
from vmkeep.formats.raw import create_raw
from vmkeep.formats.target_folder import Place
from vmkeep.formats.vhd import create_vhd
from vmkeep.formats.vhd.create import is_block_size as is_vhd_block_size
from vmkeep.formats.vhdx import create_vhdx
from vmkeep.formats.vhdx.layout import is_block_size as is_vhdx_block_size


def create_disk(path: Path | Place, profile: DiskProfile) -> DiskWriter:
    """Begin the disk that ``profile`` describes; ``path`` must be free.

    Raises :class:`UnsupportedDisk` for what the format cannot hold,
    :class:`~vmkeep.formats.errors.TargetUnwritable` for the place.
    """
    if profile.kind == "differencing":
        raise UnsupportedDisk(
            f"{str(path)!r} cannot be made: differencing disks cannot be written yet.",
            file=str(path),
            hint="Write a dynamic disk that holds the whole chain.",
        )
    match profile.format:
        case "vhdx":
            return create_vhdx(path, profile)
        case "vhd":
            return create_vhd(path, profile)
        case "raw":
            return create_raw(path, profile)


def profile_in(source: DiskProfile, format: Format) -> DiskProfile:
    """Return what a copy of a disk shall be in another format: as the source was, as far as it can be said.

    A fixed disk stays fixed; a differencing one, copied with its chain, becomes dynamic.
    """
    if format == "raw":
        return DiskProfile("raw", "fixed", source.size)
    return DiskProfile(
        format,
        "fixed" if source.kind == "fixed" and source.format != "raw" else "dynamic",
        source.size,
        logical_sector=source.logical_sector,
        physical_sector=source.physical_sector if format == "vhdx" else 512,
        block_size=source.block_size if source.format == format and _makes_blocks_of(source) else None,
        disk_id=source.disk_id,
    )


def _makes_blocks_of(profile: DiskProfile) -> bool:
    """Tell whether a writer of the profile's own format takes its block size."""
    is_block_size = is_vhdx_block_size if profile.format == "vhdx" else is_vhd_block_size
    return profile.block_size is not None and is_block_size(profile.block_size)
