"""A disk and its layers against byte arrays, and its files against a reader made from the specification."""

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.lab.disks.naive_vhdx import ZERO_GUID, read_chain
from vmkeep_lab.disks import BadRequest, LayerInUse, VirtualDisk

MIB = 1 << 20

pytestmark = pytest.mark.slow


class DiskAndModel(RuleBasedStateMachine):
    """Writes, checkpoints, merges, reverts, restarts and kills; ``model`` has the bytes of each layer."""

    @initialize(
        kind=st.sampled_from(["dynamic", "fixed"]),
        sector=st.sampled_from([512, 4096]),
        blocks=st.sampled_from([2, 3, 5]),
        tail=st.integers(0, 200),
        through_log=st.booleans(),
    )
    def create(self, kind: Any, sector: int, blocks: int, tail: int, through_log: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.sector = sector
        self.through_log = through_log
        self.size = blocks * MIB + tail * sector
        self.names = itertools.count()
        base = self.folder / "base.vhdx"
        self.disk = VirtualDisk.create(
            base,
            self.size,
            kind=kind,
            block_size=MIB,
            logical_sector=sector,
            through_log=through_log,
            seed="model",
        )
        self.model = {base: bytearray(self.size)}
        self.below: dict[Path, Path | None] = {base: None}

    def teardown(self) -> None:
        if not hasattr(self, "disk"):
            return
        for layer, expected in self.model.items():
            assert self.disk.read(0, self.size, at=layer) == expected
        self.audit(in_use=True)
        self.disk.close()
        self.audit(in_use=False)
        shutil.rmtree(self.folder)

    def audit(self, *, in_use: bool) -> None:
        for layer, expected in self.model.items():
            chain = [layer]
            while (parent := self.below[chain[-1]]) is not None:
                chain.append(parent)
            reader = read_chain(chain)
            assert reader.contents() == expected
            if layer != self.disk.leaf or not in_use or not self.through_log:
                assert reader.log_guid == ZERO_GUID

    def range_of(self, data: st.DataObject) -> tuple[int, int]:
        sectors = self.size // self.sector
        start = data.draw(st.integers(0, sectors - 1))
        length = data.draw(st.one_of(st.integers(1, 9), st.integers(1, sectors)))
        if data.draw(st.booleans()):  # whole blocks are what has states of its own
            start -= start % (MIB // self.sector)
            length = max(length, MIB // self.sector)
        return start * self.sector, min(length, sectors - start) * self.sector

    def new_name(self) -> Path:
        return self.folder / f"layer-{next(self.names)}.avhdx"

    @rule(data=st.data(), pattern=st.binary(min_size=1, max_size=7))
    def write(self, data: st.DataObject, pattern: bytes) -> None:
        offset, length = self.range_of(data)
        written = (pattern * (length // len(pattern) + 1))[:length]
        self.disk.write(offset, written)
        self.model[self.disk.leaf][offset : offset + length] = written

    @rule(data=st.data(), trim=st.booleans())
    def zero(self, data: st.DataObject, trim: bool) -> None:
        offset, length = self.range_of(data)
        (self.disk.unmap if trim else self.disk.zero)(offset, length)
        self.model[self.disk.leaf][offset : offset + length] = bytes(length)

    @rule(data=st.data())
    def read_a_part(self, data: st.DataObject) -> None:
        layer = data.draw(st.sampled_from(sorted(self.model)))
        offset = data.draw(st.integers(0, self.size - 1))
        length = data.draw(st.integers(0, self.size - offset))
        assert self.disk.read(offset, length, at=layer) == self.model[layer][offset : offset + length]

    @precondition(lambda self: len(self.model) < 5)
    @rule(block_size=st.sampled_from([MIB, 2 * MIB]))
    def checkpoint(self, block_size: int) -> None:
        old, new = self.disk.leaf, self.new_name()
        self.disk.checkpoint(new, host_path=f"C:\\VMs\\{old.name}", block_size=block_size)
        self.model[new] = bytearray(self.model[old])
        self.below[new] = old

    @precondition(lambda self: 1 < len(self.model) < 6)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        old, new = self.disk.leaf, self.new_name()
        to = data.draw(st.sampled_from(sorted(set(self.model) - {old})))
        self.disk.revert(to, new, host_path=f"C:\\VMs\\{to.name}", block_size=MIB)
        self.model[new] = bytearray(self.model[to])
        self.below[new] = to
        del self.model[old], self.below[old]
        assert not old.exists()

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data(), steps=st.one_of(st.none(), st.integers(0, 2)))
    def merge(self, data: st.DataObject, steps: int | None) -> None:
        layer = data.draw(st.sampled_from(sorted(path for path, below in self.below.items() if below)))
        parent = self.below[layer]
        assert parent is not None
        if list(self.below.values()).count(parent) > 1:
            with pytest.raises(LayerInUse):
                self.disk.start_merge(layer)
            return
        merge = self.disk.start_merge(layer)
        done = False
        for _ in range(100 if steps is None else steps):
            if done := merge.step(blocks=1):
                break
            if layer == self.disk.leaf:
                self.write(data, b"while merging")
        if not done and steps is None:
            done = merge.step(blocks=1000)
        if not done:
            merge.fail()
            # The parent alone is of no use now, so this must be merged to the end before it is looked at.
            merge = self.disk.start_merge(layer)
            while not merge.step():
                pass
        self.forget_merged(layer, parent)

    def forget_merged(self, layer: Path, parent: Path) -> None:
        assert not layer.exists()
        self.model[parent] = self.model.pop(layer)
        del self.below[layer]
        for path, below in self.below.items():
            if below == layer:
                self.below[path] = parent

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data(), blocks=st.integers(0, 3))
    def kill_while_merging(self, data: st.DataObject, blocks: int) -> None:
        layer = data.draw(st.sampled_from(sorted(path for path, below in self.below.items() if below)))
        parent = self.below[layer]
        assert parent is not None
        if list(self.below.values()).count(parent) > 1:
            return
        if self.disk.start_merge(layer).step(blocks):
            self.forget_merged(layer, parent)
            return
        self.restart(kill=True)
        others = {path: bytes(expected) for path, expected in self.model.items() if path != parent}
        for path, seen in others.items():
            assert self.disk.read(0, self.size, at=path) == seen
        self.disk.merge(layer)
        self.forget_merged(layer, parent)

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        leaf = self.disk.leaf
        tops = [path for path in self.model if path not in self.below.values() and path != leaf]
        if kill:
            self.disk.crash()
        else:
            self.disk.close()
        self.disk = VirtualDisk.open(leaf, others=tops, through_log=self.through_log, seed="model")
        assert set(self.disk.all_files) == set(self.model)

    @invariant()
    def leaf_is_right(self) -> None:
        if hasattr(self, "disk"):
            assert self.disk.read(0, self.size) == self.model[self.disk.leaf]

    @rule()
    def nothing_beyond_the_end(self) -> None:
        with pytest.raises(BadRequest):
            self.disk.write(self.size, bytes(self.sector))
        with pytest.raises(BadRequest):
            self.disk.write(self.sector // 2, bytes(self.sector))


TestDiskAndModel = DiskAndModel.TestCase
TestDiskAndModel.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
