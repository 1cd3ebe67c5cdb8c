"""Keep named immutable bytes: a directory or memory now, object stores later.

Nouns: :class:`Store`, :class:`ObjectInfo`, :class:`ObjectWriter`. A name is
used for one content only, an object is whole or absent, and what was stored is
seen by everybody at once; ``probe`` finds stores that cannot promise this. The
room knows nothing of chunks, keys or restore points, and takes no lock.
"""
