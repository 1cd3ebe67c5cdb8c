"""Read and write virtual disk files: VHD, VHDX, differencing chains, raw.

Nouns: :class:`Source` (positioned reads), :class:`Disk` (the guest's bytes),
:class:`DiskWriter`, :class:`DiskProfile`, :class:`Finding`. The room knows bytes only: nothing of
hosts, repositories or users. Whatever it is given may be torn or hostile; a
read returns right bytes or raises a ``FormatError``.
"""
