"""Read the files of one Hyper-V host: positioned reads that are known to come from the same file.

Nouns: :class:`~vmkeep.host.files.paths.PathMap` (where a path of the host
leads), :class:`~vmkeep.host.files.host_files.HostFiles` (all files of a host),
:class:`~vmkeep.host.files.facts.HostFile` (one that is open). The room knows
SMB and mounted folders; it does not know VMs, disk formats or checkpoints, and
it never writes.
"""
