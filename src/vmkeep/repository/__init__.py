"""Store restore points deduplicated and encrypted, in an open format that survives crashes and thieves.

Nouns: Repository, Writer (packs and maps of one run), Reader (verified frames),
KeyRing, Points (manifests and seals), Journal, Index (derived), DiskMap. The
room knows bytes and maps; it does not know VMs' hosts, disk file formats, or
users. The format is specified in ``docs/format.md``, which changes before the code.
"""
