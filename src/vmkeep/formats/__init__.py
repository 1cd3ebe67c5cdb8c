"""Read and write virtual disk files: VHD, VHDX, differencing chains, raw.

Nouns: :class:`Source` (positioned reads), :class:`Disk` (the guest's bytes),
:class:`DiskWriter`, :class:`DiskProfile`, :class:`Finding`. The room knows bytes only: nothing of
hosts, repositories or users. Whatever it is given may be torn or hostile; a
read returns right bytes or raises a ``FormatError``.

Files claim much more than they hold: tables and blocks in holes, a size that
only a log speaks of. Time and memory are to grow with what is really there, for
all files opened together (``TakenSpace``, ``Pages``, ``LogAllowance``,
``LayeredDisk``). Two things do not: a log of at most 64 MiB is in memory while
it is replayed, and mapping a disk looks at its whole table, 1 MiB at a time.
"""
