"""VHDX disks, read and written after [MS-VHDX] revision 8.0.

The nouns: an *image* is the file as it counts, which is the file itself or the
file with its log replayed in memory; a *block* is the unit in which the guest's
bytes are placed; the *block table* (BAT) says where each block is; a *bitmap*
says for each sector of a block whether this file or its parent holds it.

This package must not know where files come from or how parents are found.
"""

from vmkeep.formats.vhdx.disk import VhdxDisk, open_vhdx
from vmkeep.formats.vhdx.headers import refuse_vhdx_remains
from vmkeep.formats.vhdx.log import LogAllowance
from vmkeep.formats.vhdx.writer import VhdxWriter, create_vhdx

__all__ = ["LogAllowance", "VhdxDisk", "VhdxWriter", "create_vhdx", "open_vhdx", "refuse_vhdx_remains"]
