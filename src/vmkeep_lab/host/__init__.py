"""The simulated Hyper-V host: VMs, disks, checkpoints, reference points, jobs, and what breaks them.

``Host`` is the whole of it, a Provider of CIM instances and methods (``provider``). Below it: ``state`` is
everything a host remembers, ``chains`` and ``media`` its disk files, ``checkpoints``, ``merges``, ``guests``
and ``jobs`` what happens to them over time, ``faults`` what a test makes go wrong. It knows nothing of
WS-Management and nothing of who calls.

Comments name their source: facts and sections without a document are those of ``hyperv-backup-api.md``,
reports and the design are the project's. What is only believed is marked [B] and stands in
``docs/believed.md``.
"""
