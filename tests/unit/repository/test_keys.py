"""Passwords open what they should, and nothing hostile in `keys/` does harm."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.clocks import FakeClock
from tests.faults.stores import CountingStore, FaultyStore
from vmkeep.objectstore.errors import BadObjectName, ObjectMissing, StoreError, StoreForbidden
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.repository import keys
from vmkeep.repository.errors import KeyRefused, Tampered, WrongKey
from vmkeep.repository.keys import PREFIX, KeyRing, key_infos, new_recovery_key, unlock
from vmkeep.repository.parameters import Parameters
from vmkeep.repository.repository import Repository
from vmkeep.secrets import Secret

pytestmark = pytest.mark.quick

PARAMETERS = Parameters(repository=b"\3" * 16, created="2026-03-29T00:30:00.000000Z", specification="00" * 32)
MASTER = bytes(range(32))
RING = KeyRing(MASTER, PARAMETERS.repository)
GOOD, OTHER = Secret("correct horse"), Secret("battery staple")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a key costs stands in the key object; writing cheap ones keeps these tests fast.
    monkeypatch.setattr(keys, "_MEMORY_KIB", 64)
    monkeypatch.setattr(keys, "_ITERATIONS", 1)


def _add(store: MemoryStore, password: Secret, parameters: Parameters = PARAMETERS) -> str:
    key_id, stored = RING.wrap(parameters, password, "password", "2026-03-29T00:30:00.000000Z")
    store.put(f"keys/{key_id}", stored)
    return key_id


def _alter(store: MemoryStore, key_id: str, change: Callable[[dict[str, Any]], None], *, mend: bool) -> None:
    name = f"keys/{key_id}"
    fields = json.loads(store.get(name))
    change(fields)
    if mend:
        fields.pop("checksum", None)
        text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        fields["checksum"] = blake3(text).hexdigest()
    store.overwrite(name, json.dumps(fields).encode())


def _is_ours(ring: KeyRing) -> bool:
    return ring.pack_key(bytes(16)) == RING.pack_key(bytes(16))


def test_each_password_opens_the_same_master() -> None:
    store = MemoryStore()
    ids = {_add(store, GOOD), _add(store, OTHER)}
    for password in (GOOD, OTHER):
        ring, key_id = unlock(store, PARAMETERS, password)
        assert _is_ours(ring)
        ids.remove(key_id)
    assert ids == set()


def test_key_object_opens_by_hand() -> None:
    """Unwrap as docs/format.md section 4 says, without the code under test."""
    store = MemoryStore()
    key_id = _add(store, GOOD)
    fields = json.loads(store.get(f"keys/{key_id}"))
    kdf = fields["kdf"]
    wrapping = Argon2id(
        salt=bytes.fromhex(kdf["salt"]),
        length=32,
        iterations=kdf["iterations"],
        lanes=kdf["lanes"],
        memory_cost=kdf["memory_kib"],
    ).derive(b"correct horse")
    associated = b"vmkeep key v1" + PARAMETERS.repository + PARAMETERS.digest() + bytes.fromhex(key_id)
    nonce, wrapped = bytes.fromhex(fields["nonce"]), bytes.fromhex(fields["wrapped"])
    assert AESGCM(wrapping).decrypt(nonce, wrapped, associated) == MASTER
    checksum = fields.pop("checksum")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    assert blake3(text).hexdigest() == checksum


def test_costs_of_a_written_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert (keys._MEMORY_KIB, keys._ITERATIONS, keys._LANES) == (65536, 3, 4)


@pytest.mark.parametrize(
    ("derived", "salt", "info"),
    [
        (RING.chunk_id_key, PARAMETERS.repository, b"vmkeep chunk id v1"),
        (RING.node_id_key, PARAMETERS.repository, b"vmkeep node id v1"),
        (RING.inventory_key, PARAMETERS.repository, b"vmkeep inventory v1"),
        (RING.pack_key(b"p" * 16), b"p" * 16, b"vmkeep pack v1"),
        (RING.box_key(b"s" * 16), b"s" * 16, b"vmkeep box v1"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) and value.startswith(b"vmkeep") else "",
)
def test_derived_keys(derived: bytes, salt: bytes, info: bytes) -> None:
    assert derived == HKDF(SHA256(), length=32, salt=salt, info=info).derive(MASTER)


def test_vm_key_reveals_nothing_but_is_the_same() -> None:
    name_key = HKDF(SHA256(), length=32, salt=PARAMETERS.repository, info=b"vmkeep vm name v1").derive(MASTER)
    assert RING.vm_key("caf\u00e9") == blake3("caf\u00e9".encode(), key=name_key).digest(16).hex()


def test_wrong_password_is_told_apart_from_damage() -> None:
    store = MemoryStore()
    key_id = _add(store, GOOD)
    with pytest.raises(WrongKey):
        unlock(store, PARAMETERS, OTHER)
    _alter(store, key_id, lambda fields: fields.update(nonce="00" * 12), mend=False)
    with pytest.raises(Tampered, match=key_id):
        unlock(store, PARAMETERS, GOOD)


def test_no_key_at_all_is_damage_and_no_wrong_key() -> None:
    with pytest.raises(Tampered, match="no key object"):
        unlock(MemoryStore(), PARAMETERS, GOOD)


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "memory": lambda f: f["kdf"].update(memory_kib=(1 << 20) + 1),
    "iterations": lambda f: f["kdf"].update(iterations=11),
    "lanes": lambda f: f["kdf"].update(lanes=17),
    "too little memory": lambda f: f["kdf"].update(memory_kib=31),
    "negative": lambda f: f["kdf"].update(iterations=-1),
    "zero": lambda f: f["kdf"].update(lanes=0),
    "float": lambda f: f["kdf"].update(iterations=1.0),
    "true": lambda f: f["kdf"].update(iterations=True),
    "huge": lambda f: f["kdf"].update(memory_kib=1 << 200),
    "other function": lambda f: f["kdf"].update(name="scrypt"),
    "no function": lambda f: f.update(kdf=[]),
    "short salt": lambda f: f["kdf"].update(salt="00" * 15),
    "no hex": lambda f: f.update(wrapped="z" * 96),
    "short master": lambda f: f.update(wrapped="00" * 47),
    "other id": lambda f: f.update(id="00" * 16),
    "newer": lambda f: f.update(version=2),
    "number for a text": lambda f: f.update(nonce=12),
    "no format": lambda f: f.pop("format"),
    "no kind": lambda f: f.pop("kind"),
    "kind as a list": lambda f: f.update(kind=[]),
    "no time": lambda f: f.pop("created"),
    "capitals": lambda f: f.update(nonce="AB" * 12),
    "spaces": lambda f: f.update(nonce="00 " * 12),
    "true for a version": lambda f: f.update(version=True),
    "other kind": lambda f: f.update(kind="spare"),
}
_MISTYPED: tuple[object, ...] = (None, True, 7, 1.5, "", "00", [], {})
_FIELDS = ["version", "id", "kind", "created", "format", "nonce", "wrapped", "checksum", "kdf"]
_COSTS = ["name", "memory_kib", "iterations", "lanes", "salt"]


def _never_derive(**costs: object) -> None:
    raise AssertionError(f"the costs asked for are paid: {costs}")


@pytest.mark.parametrize("what", list(HOSTILE))
def test_hostile_key_costs_nothing_and_does_not_lock_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    hostile = _add(store, GOOD)
    _alter(store, hostile, HOSTILE[what], mend=True)
    with monkeypatch.context() as patched, pytest.raises((Tampered, KeyRefused), match=hostile):
        patched.setattr(keys, "Argon2id", _never_derive)
        unlock(store, PARAMETERS, GOOD)
    good = _add(store, GOOD)
    assert _is_ours(unlock(store, PARAMETERS, GOOD)[0])
    found, [problem] = key_infos(store)
    assert [info.id for info in found] == [good] and hostile in problem.message


def _put(fields: dict[str, Any], name: str, value: object) -> None:
    place = fields["kdf"] if name in _COSTS else fields
    if value is _DROPPED:
        del place[name]
    else:
        place[name] = value


_DROPPED = object()


@pytest.mark.parametrize("name", [*_FIELDS, *_COSTS])
def test_a_planted_key_without_a_field_or_with_another_type_in_it_locks_nobody_out(name: str) -> None:
    """Anybody can write one: its checksum needs no key."""
    store = MemoryStore()
    planted, good = _add(store, OTHER), _add(store, GOOD)
    original = json.loads(store.get(f"keys/{planted}"))
    # A positive integer is the type of a cost, and any text will do for a time.
    fits = {"created": ("", "00"), "memory_kib": (7,), "iterations": (7,), "lanes": (7,)}.get(name, ())
    for value in (_DROPPED, *(wrong for wrong in _MISTYPED if wrong not in fits)):
        fields = json.loads(json.dumps(original))
        mended = dict(fields)
        _put(mended, name, value)
        mended.pop("checksum", None)
        text = json.dumps(mended, sort_keys=True, separators=(",", ":")).encode()
        mended["checksum"] = blake3(text).hexdigest()
        if name == "checksum":
            _put(mended, name, value)
        store.overwrite(f"keys/{planted}", json.dumps(mended).encode())
        ring, key_id = unlock(store, PARAMETERS, GOOD)
        assert key_id == good and _is_ours(ring), value
        with pytest.raises(Tampered, match=planted):
            unlock(store, PARAMETERS, OTHER)


@pytest.mark.parametrize(
    "error", [StoreForbidden("not for you."), ObjectMissing("gone."), BadObjectName("no name.")]
)
def test_a_key_object_the_store_does_not_give_locks_nobody_out(error: StoreError) -> None:
    store = MemoryStore()
    _add(store, GOOD)
    store.put("keys/" + "0" * 32, b"anything")
    refusing = FaultyStore(store).fail("get", times=99, prefix="keys/" + "0" * 32, error=error)
    assert _is_ours(unlock(refusing, PARAMETERS, GOOD)[0])
    with pytest.raises(WrongKey if isinstance(error, ObjectMissing) else (StoreForbidden, Tampered)):
        unlock(refusing, PARAMETERS, OTHER)


def test_a_key_object_larger_than_any_is_not_even_read() -> None:
    store = MemoryStore()
    _add(store, GOOD)
    store.put("keys/" + "0" * 32, bytes((64 << 10) + 1))
    counting = CountingStore(store)
    assert _is_ours(unlock(counting, PARAMETERS, GOOD)[0])
    assert counting.bytes_read < 64 << 10


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 60000, b"1" * 70000, b"1" * 5000]
)
def test_junk_among_the_keys_does_not_lock_out(content: bytes) -> None:
    store = MemoryStore()
    _add(store, GOOD)
    store.put("keys/" + "0" * 32, content)
    assert _is_ours(unlock(store, PARAMETERS, GOOD)[0])
    with pytest.raises(Tampered, match="0" * 32):
        unlock(store, PARAMETERS, OTHER)
    found, [problem] = key_infos(store)
    assert len(found) == 1 and "0" * 32 in problem.message


def test_key_of_other_parameters_does_not_lock_out() -> None:
    # Anybody can write one: its checksum needs no key.
    store = MemoryStore()
    foreign = _add(store, GOOD, Parameters(repository=b"\4" * 16, created="x"))
    with pytest.raises(Tampered, match=foreign):
        unlock(store, PARAMETERS, GOOD)
    good = _add(store, GOOD)
    ring, key_id = unlock(store, PARAMETERS, GOOD)
    assert key_id == good and _is_ours(ring)


@pytest.mark.parametrize(
    "altered",
    [
        Parameters(PARAMETERS.repository, PARAMETERS.created, chunk_size=32768, specification="00" * 32),
        Parameters(PARAMETERS.repository, PARAMETERS.created, put_if_absent=False, specification="00" * 32),
        Parameters(PARAMETERS.repository, PARAMETERS.created, specification="11" * 32),
        Parameters(b"\4" * 16, PARAMETERS.created, specification="00" * 32),
    ],
    ids=["chunk size", "put if absent", "specification", "id"],
)
def test_altered_parameters_are_noticed_before_any_data_is_read(altered: Parameters) -> None:
    store = MemoryStore()
    key_id = _add(store, GOOD)
    with pytest.raises(Tampered, match="format"):
        unlock(store, altered, GOOD)
    # Also when the key object is made to agree with them: the wrapping covers the hash.
    _alter(store, key_id, lambda fields: fields.update(format=altered.digest().hex()), mend=True)
    with pytest.raises(WrongKey):
        unlock(store, altered, GOOD)


def test_generation_is_not_bound() -> None:
    store = MemoryStore()
    _add(store, GOOD)
    raised = Parameters(PARAMETERS.repository, PARAMETERS.created, specification="00" * 32, generation=9)
    assert _is_ours(unlock(store, raised, GOOD)[0])


def test_key_under_another_keys_name_is_refused() -> None:
    store = MemoryStore()
    one, two = _add(store, GOOD), _add(store, OTHER)
    first, second = store.get(f"keys/{one}"), store.get(f"keys/{two}")
    store.overwrite(f"keys/{one}", second)
    store.overwrite(f"keys/{two}", first)
    with pytest.raises(Tampered):
        unlock(store, PARAMETERS, GOOD)


def test_recovery_key_opens() -> None:
    store = MemoryStore()
    recovery = new_recovery_key()
    key_id, stored = RING.wrap(PARAMETERS, recovery, "recovery", "2026-03-29T00:30:00.000000Z")
    store.put(f"keys/{key_id}", stored)
    assert _is_ours(unlock(store, PARAMETERS, Secret(recovery.reveal().decode()))[0])
    assert [(info.id, info.kind) for info in key_infos(store)[0]] == [(key_id, "recovery")]


def test_recovery_keys_are_long_and_never_alike() -> None:
    made = {new_recovery_key().reveal() for _ in range(50)}
    assert len(made) == 50
    assert {len(key.replace(b"-", b"")) for key in made} == {32}  # 160 bits in base 32


def test_nothing_prints_the_key() -> None:
    assert "***" in repr(RING) and MASTER.hex() not in repr(RING)


@pytest.fixture
def paid(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Memory and passes of each derivation asked of the library, which charges for none of them."""
    asked: list[tuple[int, int]] = []

    def derive(*, iterations: int, memory_cost: int, **others: Any) -> Argon2id:
        asked.append((memory_cost, iterations))
        return Argon2id(**others, iterations=1, memory_cost=max(64, memory_cost % 1024))

    monkeypatch.setattr(keys, "Argon2id", derive)
    return asked


def _plant(
    store: MemoryStore,
    number: int,
    memory_kib: int,
    iterations: int,
    kind: str = "password",
    parameters: Parameters = PARAMETERS,
) -> str:
    """Add a key object as anybody can write it: sound, expensive, and listed before all others."""
    name = f"{number:032x}"
    fields: dict[str, Any] = {
        "version": 1, "id": name, "kind": kind, "created": "2026-03-29T00:30:00Z",
        "kdf": {
            "name": "argon2id", "memory_kib": memory_kib, "iterations": iterations, "lanes": 4,
            "salt": "00" * 16,
        },
        "format": parameters.digest().hex(), "nonce": "00" * 12, "wrapped": "00" * 48,
    }  # fmt: skip
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    fields["checksum"] = blake3(text).hexdigest()
    store.put(f"keys/{name}", json.dumps(fields).encode())
    return f"keys/{name}"


def test_a_planted_expensive_key_delays_nobody_who_knows_the_password(
    paid: list[tuple[int, int]],
) -> None:
    store = MemoryStore()
    _plant(store, 1, 1 << 20, 10)
    _plant(store, 2, 32, 1)  # cheaper than ours: that does not put it in front
    good = _add(store, GOOD)
    paid.clear()
    assert unlock(store, PARAMETERS, GOOD)[1] == good
    assert paid == [(64, 1)]


def test_the_most_expensive_key_a_reader_takes_is_tried_in_the_end(paid: list[tuple[int, int]]) -> None:
    store = MemoryStore()
    _plant(store, 1, 1 << 20, 10, "recovery")
    _plant(store, 2, 1 << 17, 3)
    _add(store, GOOD)
    paid.clear()
    with pytest.raises(WrongKey):
        unlock(store, PARAMETERS, Secret("some recovery key"))
    assert paid == [(64, 1), (1 << 17, 3), (1 << 20, 10), (1 << 20, 10)]


@pytest.mark.parametrize(("memory_kib", "iterations"), [(1 << 20, 10), (64, 1)])
def test_keys_without_end_cost_no_time_without_end(
    paid: list[tuple[int, int]], memory_kib: int, iterations: int
) -> None:
    store = MemoryStore()
    planted = [_plant(store, number, memory_kib, iterations) for number in range(100)]
    with pytest.raises(KeyRefused, match="left untried") as caught:
        unlock(store, PARAMETERS, GOOD)
    # Not more than 64 keys, and not more than three of the most expensive ones.
    assert 1 <= len(paid) <= (64 if memory_kib == 64 else 3)
    assert caught.value.context["object"] == planted[len(paid)]
    assert planted[len(paid)] in caught.value.message and "Check the password" in caught.value.hint


def test_a_key_this_machine_has_no_memory_for_is_left_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    planted = _plant(store, 1, 1 << 20, 1)

    def refuse(*, memory_cost: int, **others: Any) -> Argon2id:
        if memory_cost == 1 << 20:
            raise MemoryError
        return Argon2id(**others, memory_cost=memory_cost)

    monkeypatch.setattr(keys, "Argon2id", refuse)
    _add(store, GOOD)
    assert _is_ours(unlock(store, PARAMETERS, GOOD)[0])
    with pytest.raises(KeyRefused, match=planted):
        unlock(store, PARAMETERS, OTHER)


def _among_plants(store: MemoryStore, clock: FakeClock, *, ours_first: bool) -> str:
    """Store the good key, and 64 planted ones that cost as much and are listed before it."""
    good = _add(store, GOOD) if ours_first else ""
    clock.advance(60)
    for number in range(64):
        _plant(store, number, 64, 1)
    clock.advance(60)
    return good or _add(store, GOOD)


def test_keys_planted_later_stand_behind_those_that_were_there(
    paid: list[tuple[int, int]], fake_clock: FakeClock
) -> None:
    store = MemoryStore(fake_clock)
    good = _among_plants(store, fake_clock, ours_first=True)
    paid.clear()
    assert unlock(store, PARAMETERS, GOOD)[1] == good
    assert len(paid) == 1


def test_a_key_that_opened_before_is_tried_first_whatever_was_planted(
    paid: list[tuple[int, int]], fake_clock: FakeClock
) -> None:
    store = MemoryStore(fake_clock)
    good = _among_plants(store, fake_clock, ours_first=False)
    with pytest.raises(KeyRefused, match="left untried") as caught:
        unlock(store, PARAMETERS, GOOD)
    assert "in the storage itself" in caught.value.hint and "`keys/" in caught.value.hint
    paid.clear()
    assert unlock(store, PARAMETERS, GOOD, first={good, "ab" * 16})[1] == good
    assert len(paid) == 1
    # What the memory says opens nothing by itself.
    with pytest.raises(KeyRefused):
        unlock(store, PARAMETERS, OTHER, first={good})


def test_this_machine_remembers_which_key_opened(
    paid: list[tuple[int, int]], fake_clock: FakeClock, tmp_path: Path
) -> None:
    store = MemoryStore(fake_clock)
    Repository.create(store, {"password": GOOD}, fake_clock, repository_id=bytes(16))
    with Repository.open(store, GOOD, fake_clock, tmp_path) as opened:
        assert opened.warnings == []
    (real,) = store.list("keys/")
    content = store.get(real.name)
    store.delete(real.name)
    parameters = Parameters.decode(store.get("format"), "memory:")
    for number in range(64):
        _plant(store, number, 64, 1, parameters=parameters)
    fake_clock.advance(60)
    store.put(real.name, content)  # younger than any planted one
    paid.clear()
    with Repository.open(store, GOOD, fake_clock, tmp_path) as opened:
        assert PREFIX + opened.key_id == real.name
    assert len(paid) == 1
    with pytest.raises(KeyRefused):
        Repository.open(store, GOOD, fake_clock, tmp_path / "another machine")
