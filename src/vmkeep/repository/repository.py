"""One repository: made, opened, and handed out as reader, writer, points and journal."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Self

from blake3 import blake3

from vmkeep.clock import Clock
from vmkeep.model.plan import VmRef
from vmkeep.model.point import StoredDisk, StoredFile
from vmkeep.objectstore.errors import ObjectMissing, StoreMissing, StoreUnsupported
from vmkeep.objectstore.probe import PROBE_PREFIX, probe
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.progress import Progress
from vmkeep.repository import index as index_objects
from vmkeep.repository import parameters as parameter_object
from vmkeep.repository.box import open_box
from vmkeep.repository.condemned import blamed_pack, condemned_packs, damaged_packs, incomplete_packs
from vmkeep.repository.errors import NotARepository, RepositoryExists, RolledBack, Tampered
from vmkeep.repository.fetching import fetch
from vmkeep.repository.heads import Heads, Seen
from vmkeep.repository.index import Index
from vmkeep.repository.index_cache import IndexCache, names_of
from vmkeep.repository.index_copy import IndexCopy
from vmkeep.repository.journal import Journal
from vmkeep.repository.keys import PREFIX as KEYS
from vmkeep.repository.keys import KeyRing, new_master, unlock
from vmkeep.repository.listing import POINTS, SEALS, Listing, SealedPoint
from vmkeep.repository.manifest import format_time
from vmkeep.repository.packs import PackRef
from vmkeep.repository.parameters import Parameters, specification_text
from vmkeep.repository.points import Points
from vmkeep.repository.reader import DiskMap, Reader, map_of, stored_packs
from vmkeep.repository.writer import Writer
from vmkeep.secrets import Secret

# What an attempt that died may leave before there is a repository.
_UNFINISHED: Final = (KEYS, parameter_object.SPECIFICATION_NAME, PROBE_PREFIX)


class Repository:
    """An opened repository: the keys are known, nothing else has been read yet.

    One repository is one trust domain: whoever opens it reads all of it.
    """

    def __init__(
        self,
        store: Store,
        parameters: Parameters,
        ring: KeyRing,
        clock: Clock,
        heads: Heads | None,
        key_id: str,
    ) -> None:
        self.store = store
        self.parameters = parameters
        self.ring = ring
        self.key_id = key_id
        self.points = Points(store, ring)
        self._clock = clock
        self._heads = heads
        self._cache: IndexCache | None = None
        self._cache_warnings: list[str] = []
        self._index: Index | None = None
        self._reader: Reader | None = None

    @classmethod
    def create(
        cls,
        store: Store,
        passwords: Mapping[str, Secret],
        clock: Clock,
        *,
        chunk_size: int = 64 << 10,
        pack_size: int = 64 << 20,
        repository_id: bytes,
    ) -> Parameters:
        """Make an empty repository; ``passwords`` has "password" and may have "recovery".

        Raises RepositoryExists when there is one, StoreUnsupported when the
        store does not keep its promises.
        """
        if store.head(parameter_object.NAME) is not None:
            raise RepositoryExists(f"there is a repository at {store.address} already.")
        strangers: bool = any(not info.name.startswith(_UNFINISHED) for info in store.list(""))
        # Only a folder can hold what is no object at all.
        if strangers or bool(getattr(store, "foreign", 0)):
            raise RepositoryExists(f"{store.address} is not empty.")
        found = probe(store)
        if not (found.read_after_write and found.list_after_write):
            raise StoreUnsupported(f"{store.address} does not show at once what was stored or removed.")
        if not found.put_if_absent:
            raise StoreUnsupported(
                f"{store.address} lets one object replace another: nothing decides a seal."
            )
        created = format_time(clock.now())
        specification = specification_text()
        parameters = Parameters(
            repository=repository_id,
            created=created,
            chunk_size=chunk_size,
            pack_size=pack_size,
            put_if_absent=True,
            specification=blake3(specification).hexdigest(),
        )
        ring = KeyRing(new_master(), parameters.repository)
        for kind in ("password", "recovery"):
            if kind in passwords:
                key_id, stored = ring.wrap(
                    parameters, passwords[kind], "recovery" if kind == "recovery" else "password", created
                )
                store.put(KEYS + key_id, stored)
        store.put(parameter_object.SPECIFICATION_NAME, specification)
        # Last: without it there is no repository, and a second try may start over. (Key
        # objects of the first try belong to other parameters; nothing opens with them.)
        if not store.put_if_absent(parameter_object.NAME, parameters.encode()):
            raise RepositoryExists(f"somebody else made a repository at {store.address} just now.")
        return parameters

    @classmethod
    def open(
        cls,
        store: Store,
        password: Secret,
        clock: Clock,
        heads_folder: Path | None = None,
        cache_folder: Path | None = None,
    ) -> Self:
        """Open with a password. Raises NotARepository, RepositoryTooNew, and what :func:`unlock` raises."""
        parameters = read_parameters(store)
        heads = None
        if heads_folder is not None:
            heads = Heads(heads_folder, parameters.repository, store.canonical_address)
        opened_before = heads.keys() if heads is not None else frozenset()
        ring, key_id = unlock(store, parameters, password, first=opened_before)
        repository = cls(store, parameters, ring, clock, heads, key_id)
        if heads is not None:
            repository._note(heads, partial(heads.know_key, key_id))
        repository.keep_index_in(cache_folder)
        return repository

    def keep_index_in(self, cache_folder: Path | None) -> None:
        """Keep there, between runs, what index objects say; None: nothing is kept."""
        self._cache = IndexCache(cache_folder, self.ring) if cache_folder is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what this machine keeps for the open repository; safe to repeat."""
        if self._index is not None:
            self._index.close()
            self._index = None
            self._reader = None

    def listing(self, *, accept_rollback: bool = False) -> Listing:
        """Return all restore points.

        Raises RolledBack when this machine has seen a newer state, or another repository in its place.
        """
        seen, listing, rolled_back = self._compare()
        if rolled_back is not None and not accept_rollback:
            raise rolled_back
        heads = self._heads
        if heads is not None:
            self._note(heads, lambda: heads.remember(seen, listing, accept_rollback=accept_rollback))
        return listing

    def look(self) -> tuple[Listing, RolledBack | None]:
        """Return all restore points, and what this machine has seen and they lack; remember nothing."""
        _, listing, rolled_back = self._compare()
        return listing, rolled_back

    def _compare(self) -> tuple[Seen, Listing, RolledBack | None]:
        heads = self._heads
        if heads is None:
            return frozenset(), self.points.listing(), None
        seen = heads.recall()
        listing = self.points.listing()
        try:
            heads.check(seen, listing)
        except RolledBack as error:
            return seen, listing, error
        return seen, listing, None

    @property
    def warnings(self) -> list[str]:
        """What this machine could not remember or recall about the repository."""
        return [*(self._heads.warnings if self._heads is not None else ()), *self._cache_warnings]

    def remember(self, sealed: SealedPoint) -> None:
        """Remember, on this machine, a point it has just made: its loss is a rollback."""
        heads = self._heads
        if heads is not None:
            self._note(heads, lambda: heads.add(sealed))

    def head(self, listing: Listing, vm_id: str) -> tuple[int, str, bytes] | None:
        """Return number, name and digest of a VM's last point: listed, forgotten, or only remembered here."""
        remembered = self._heads.newest(vm_id) if self._heads is not None else None
        listed = listing.head(vm_id)
        return max((head for head in (listed, remembered) if head is not None), default=None)

    def _note(self, heads: Heads, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            # A full disk here must keep nobody from restoring, nor make a good point a failure.
            reason = (error.strerror or str(error)).lower()
            text = f"this machine could not note what it has seen of the repository: {reason}."
            if text not in heads.warnings:
                heads.warnings.append(text)

    @property
    def index(self) -> Index:
        """Where things lie, loaded from `index/` on first use; objects that do not verify are left out."""
        if self._index is None:
            self._index = self._load_index()
        return self._index

    def _load_index(self) -> Index:
        index = Index()
        try:
            index.avoid(condemned_packs(self.store))
            present = stored_packs(self.store)
            infos = {info.name: info for info in self.store.list(index_objects.PREFIX)}
            for copy in self._copies(infos):
                told = [infos.pop(name) for name in names_of(copy) & infos.keys()]
                listed = {info.name for info in told}
                index.add_copy(copy, listed, present, partial(self._learn_again, index, told))
            self._learn(index, infos.values(), present)
        except BaseException:
            index.close()
            raise
        return index

    def _copies(self, infos: Mapping[str, ObjectInfo]) -> list[IndexCopy]:
        """Return what this machine has kept of the index, and keep more if that saves the next run much."""
        if self._cache is None:
            return []
        copies = self._cache.open(infos.keys())
        told = {name for copy in copies for name in names_of(copy)}
        missing = [info for name, info in infos.items() if name not in told]
        if self._cache.is_worthwhile(missing):
            try:
                return self._cache.add(copies, missing, infos.keys(), self._index_object)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                self._cache_warnings.append(
                    f"this machine could not keep what it read of the index: {reason}."
                )
            except BaseException:
                for copy in copies:
                    copy.remove()
                raise
        return copies

    def _index_object(self, info: ObjectInfo) -> bytes:
        return open_box(self.ring, info.name, fetch(self.store, info))

    def _learn(self, index: Index, infos: Iterable[ObjectInfo], present: Container[PackRef]) -> None:
        for info in infos:
            try:
                index.add_encoded(self._index_object(info), info.name, present)
            except (Tampered, ObjectMissing):
                continue  # derived: the slot tables say the same, and `check` reports it

    def _learn_again(self, index: Index, infos: Sequence[ObjectInfo]) -> None:
        self._cache_warnings.append("what this machine had kept of the index was damaged; it was read again.")
        self._learn(index, infos, stored_packs(self.store))

    @property
    def reader(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self.store, self.parameters, self.ring, self.index)
        return self._reader

    def disk_map(self, stored: StoredDisk | StoredFile) -> DiskMap:
        """Return the stored bytes of one disk or file."""
        return map_of(self.reader, stored)

    def writer(self, run: str, progress: Progress | None = None) -> Writer:
        """Return a writer that deduplicates against all that is known, not condemned and can be opened."""
        # Whatever became of `index/`: nothing that is here is stored twice.
        refused = map(blamed_pack, self.reader.refresh())
        unreadable = {ref for ref in refused if ref is not None}
        incomplete = incomplete_packs(self.store, self.ring.repository, self.ring)
        self.index.avoid(condemned_packs(self.store) | incomplete | {ref.id for ref in unreadable})
        damaged = damaged_packs(self.store, self.ring)
        return Writer(
            self.store,
            self.parameters,
            self.ring,
            self.index,
            run,
            progress,
            damaged=damaged | incomplete,
            met={ref for ref in unreadable if ref.id not in damaged},
        )

    def journal(self, vm: VmRef, run: str) -> Journal:
        return Journal(self.store, self.ring, self._clock, vm, run)


def _holds_points(store: Store) -> bool:
    # A making of a repository that was cut short leaves keys, but nothing that a run stores.
    return any(next(iter(store.list(prefix)), None) for prefix in (POINTS, SEALS))


def read_parameters(store: Store) -> Parameters:
    """Read the `format` object. Raises NotARepository, RepositoryTooNew or Tampered."""
    try:
        stored = fetch(store, parameter_object.NAME)
    except (ObjectMissing, StoreMissing) as error:
        if isinstance(error, ObjectMissing) and _holds_points(store):
            raise NotARepository(
                f"the repository at {store.address} has lost its object `format`: nothing in it can be read "
                "without.",
                hint="Bring `format` back from a copy of the repository or an older state of its storage; "
                "until then leave everything there as it is.",
            ) from error
        raise NotARepository(f"there is no repository at {store.address}.") from error
    return Parameters.decode(stored, store.address)
