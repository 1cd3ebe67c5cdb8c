"""VHD disks: fixed, dynamic and differencing read, fixed and dynamic written.

The nouns: the *footer* says what the disk is; the *dynamic header* how a sparse
one is laid out; a *block* is the unit in which the guest's bytes are placed,
with a *bitmap* in front that says for each sector whether this file holds it;
the *block table* (BAT) says where each block is. All numbers are big endian.

This package must not know where files come from or how parents are found.
"""

from vmkeep.formats.vhd.create import create_vhd
from vmkeep.formats.vhd.disk import open_vhd
from vmkeep.formats.vhd.remains import refuse_vhd_remains

__all__ = ["create_vhd", "open_vhd", "refuse_vhd_remains"]
