"""A simulated Hyper-V host that a WinRM client cannot tell from a real one.

It imports nothing of vmkeep and is imported by nothing of it: started as
``python -m vmkeep_lab``, reached over HTTP and SMB like the real thing. It is
no friend: it models the unpleasant parts of a host, and each of its rules
cites a document, a recording or the contract. What is only believed stands in
``docs/believed.md``.

Rooms: ``cim`` and ``clock`` (values, time), ``schema`` (which classes a host
has), ``disks`` (virtual disks that change), ``host`` (VMs, jobs, checkpoints),
``wire`` (WS-Management), ``scenario`` (readable files that set up a host),
``judge`` (compares restored disks with what the lab knows), ``replay`` (answers
with what a real host once said).
"""
