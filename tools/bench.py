"""Measure vmkeep as whole processes, beside ``cp`` and ``zstd``, on the same data in the same run.

Seconds of one machine on one day mean little; what is printed are medians with
their spread, and ratios to what simple tools need for the same bytes. Every
step is also judged: what was restored is compared with its source. The
standard library is all this needs; zstd is used if it is there.

    python tools/bench.py [--size MIB] [--rounds N] [--seed N] [--work DIR] [--json]
    python tools/bench.py --peers-json    # the commands, for a driver of other backup programs
"""

import argparse
import json
import os
import platform
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
MIB: Final = 1 << 20
_BLOCK: Final = 64 << 10
_SPARSE: Final = 4  # the disk is so many times as large as what is allocated on it
_CHANGED: Final = 0.02
_VMKEEP: Final = (sys.executable, "-c", "import sys; from vmkeep.cli import main; sys.exit(main())")


class BenchError(Exception):
    """A step failed or gave a wrong result, so that its time means nothing."""


# --- data ---------------------------------------------------------------------------


class Extent(NamedTuple):
    """Bytes of the disk that hold data."""

    offset: int
    length: int


class Content:
    """Seeded blocks of 64 KiB in the mixture a VM's disk has: texts, programs, noise, zeros, repetitions."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        words = [self._rng.randbytes(self._rng.randint(2, 6)).hex().encode() for _ in range(3000)]
        self._lines = [b" ".join(self._rng.choices(words, k=self._rng.randint(4, 12))) for _ in range(4000)]
        # Few values are frequent, as in machine code: compressible, with hardly any repetition.
        self._skewed = bytes(min(255, int(self._rng.expovariate(1 / 40))) for _ in range(256))
        self._earlier: list[bytes] = []

    def block(self) -> bytes:
        """Return the next block."""
        kind = self._rng.random()
        if kind < 0.40:
            made = self._text()
        elif kind < 0.62:
            made = self._rng.randbytes(_BLOCK).translate(self._skewed)
        elif kind < 0.80:
            made = self._rng.randbytes(_BLOCK)
        elif kind < 0.88 or not self._earlier:
            return bytes(_BLOCK)
        else:
            return self._rng.choice(self._earlier)
        if len(self._earlier) < 64:
            self._earlier.append(made)
        return made

    def _text(self) -> bytes:
        out = []
        length = 0
        while length < _BLOCK:
            line = b"%s %016x\n" % (self._rng.choice(self._lines), self._rng.getrandbits(64))
            out.append(line)
            length += len(line)
        return b"".join(out)[:_BLOCK]


@dataclass(frozen=True)
class Images:
    """Three generations of one disk, what changed between them, and the data without the holes."""

    generations: tuple[Path, ...]
    changes: Path
    changed: int
    dense: Path
    allocated: int
    size: int


def make_images(folder: Path, allocated: int, seed: int) -> Images:
    """Write the disks; the same seed and size give the same bytes."""
    rng = random.Random(seed)
    content = Content(seed + 1)
    extents = list(_extents(rng, allocated))
    size = allocated * _SPARSE
    first, dense = folder / "generation1.raw", folder / "dense.bin"
    with first.open("wb") as disk, dense.open("wb") as packed:
        disk.truncate(size)
        for offset, length in extents:
            disk.seek(offset)
            for _ in range(length // _BLOCK):
                block = content.block()
                disk.write(block)
                packed.write(block)
    generations = [first]
    changes: list[list[Extent]] = []
    for number in (2, 3):
        path = folder / f"generation{number}.raw"
        copied = subprocess.run(
            ["cp", "--sparse=auto", "--reflink=never", generations[-1], path], check=False
        )
        if copied.returncode:
            raise BenchError("cp failed")
        changes.append(_overwrite(path, extents, int(allocated * _CHANGED), rng, content))
        generations.append(path)
    file = folder / "changes.json"
    file.write_text(json.dumps({"ranges": changes[0]}))
    return Images(tuple(generations), file, sum(e.length for e in changes[0]), dense, allocated, size)


def _extents(rng: random.Random, allocated: int) -> Iterator[Extent]:
    """Spread ``allocated`` bytes over the disk in pieces of 64 KiB to 8 MiB."""
    at, left = 0, allocated
    while left:
        length = min(left, rng.randint(1, 8 * MIB // _BLOCK) * _BLOCK)
        yield Extent(at, length)
        left -= length
        at += length + rng.randint(0, 2 * (_SPARSE - 1) * length * 9 // 10 // _BLOCK) * _BLOCK
        at = min(at, allocated * _SPARSE - left)


def _overwrite(
    path: Path, extents: Sequence[Extent], target: int, rng: random.Random, content: Content
) -> list[Extent]:
    """Write over ``target`` bytes in pieces of 8 to 64 KiB, as databases and file systems do."""
    written = []
    weights = [e.length for e in extents]
    done = 0
    with path.open("r+b") as disk:
        while done < target:
            length = rng.choice((8, 8, 8, 16, 16, 32, 64)) << 10
            extent = rng.choices(extents, weights)[0]
            offset = extent.offset + rng.randrange(0, extent.length - length + 1, 4096)
            disk.seek(offset)
            disk.write(content.block()[:length])
            written.append(Extent(offset, length))
            done += length
    return sorted(written)


def same_bytes(one: Path, other: Path) -> bool:
    """Compare two files from first to last byte."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb", buffering=0) as left, other.open("rb", buffering=0) as right:
        while part := left.read(4 * MIB):
            if part != right.read(4 * MIB):
                return False
    return True


# --- measuring ----------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """What one process used: seconds by the clock and of the processors, and its largest memory."""

    wall: float
    cpu: float
    rss: int


@dataclass
class Series:
    """All samples of one step of one tool, and how many bytes the step had to deal with."""

    tool: str
    step: str
    volume: int
    samples: list[Sample] = field(default_factory=list)

    def median(self, name: str) -> float:
        return float(statistics.median(getattr(sample, name) for sample in self.samples))

    @property
    def span(self) -> tuple[float, float]:
        walls = [sample.wall for sample in self.samples]
        return min(walls), max(walls)


def measure(
    command: Sequence[str | Path], environment: Mapping[str, str], output: Path | None = None
) -> tuple[Sample, bytes]:
    """Run one process to its end; return what it used and what it printed (unless sent to ``output``)."""
    os.sync()  # what others left to be written must not count here
    with tempfile.TemporaryFile() as errors, (output or Path(os.devnull)).open("wb") as sink:
        start = time.perf_counter()
        child = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=sink if output is not None else subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
        )
        printed = child.stdout.read() if child.stdout is not None else b""
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.stdout is not None:
            child.stdout.close()
        if child.returncode:
            errors.seek(0)
            said = errors.read()[-2000:].decode(errors="replace")
            raise BenchError(f"exit code {child.returncode} of {shlex.join(map(str, command))}: {said}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10), printed


class Bench:
    """Runs the tools in rounds and collects their samples."""

    def __init__(self, images: Images, folder: Path) -> None:
        self.series: dict[tuple[str, str], Series] = {}
        self.stored = 0
        self._images = images
        self._folder = folder
        self._environment = child_environment(folder)

    def rounds(self, count: int, told: Callable[[str], None]) -> None:
        """Run each tool once per round, each time another one first."""
        tools = [self._vmkeep, self._cp, self._cp_durable] + ([self._zstd] if shutil.which("zstd") else [])
        self._warm_up()
        for number in range(count):
            first = number % len(tools)
            for tool in tools[first:] + tools[:first]:
                told(f"round {number + 1} of {count}: {tool.__name__.removeprefix('_')}")
                place = self._folder / "round"
                place.mkdir()
                tool(place)
                shutil.rmtree(place)

    def _warm_up(self) -> None:
        """Let Python compile what it imports, as installing does, and read the sources once."""
        measure([*_VMKEEP, "backup", "--help"], self._environment)
        repo = self._folder / "warm"
        self._run("repo", "init", repo, "--no-recovery-key")
        small = self._folder / "small.raw"
        small.write_bytes(bytes(_BLOCK) + b"x" * _BLOCK)
        self._run("backup", f"disk:{small}", "--repo", repo)
        self._run("restore", "latest", "--repo", repo, "--to", self._folder / "small-again.raw")
        self._run("repo", "check", repo, "--read-data", "all")
        shutil.rmtree(repo)
        for path in (*self._images.generations, self._images.dense):
            if not same_bytes(path, path):
                raise BenchError(f"{path} changed")

    def _note(self, tool: str, step: str, volume: int, sample: Sample) -> None:
        self.series.setdefault((tool, step), Series(tool, step, volume)).samples.append(sample)

    def _run(self, *arguments: str | Path) -> tuple[Sample, dict[str, Any]]:
        sample, printed = measure([*_VMKEEP, *arguments, "--json"], self._environment)
        document: dict[str, Any] = json.loads(printed)
        return sample, document

    def _vmkeep(self, place: Path) -> None:
        images = self._images
        one, two, three = images.generations
        repo = place / "repository"
        sample, _ = measure([*_VMKEEP, "--version"], self._environment)
        self._note("vmkeep", "start", 0, sample)
        self._run("repo", "init", repo, "--no-recovery-key")
        to_repo = ("--repo", repo, "--as", "bench")
        declared = ("--changes", images.changes, "--parent", "bench")
        for step, source, extra, volume in (
            ("full", one, (), images.allocated),
            ("increment, ranges declared", two, declared, images.changed),
            ("increment, ranges lost", three, (), images.allocated),
        ):
            sample, document = self._run("backup", f"disk:{source}", *to_repo, *extra)
            self._note("vmkeep", step, volume, sample)
            again = place / "again.raw"
            restored, _ = self._run("restore", document["point"], "--repo", repo, "--to", again)
            if not same_bytes(again, source):
                raise BenchError(f"what was restored after {step!r} is not what was backed up")
            again.unlink()
        self._note("vmkeep", "restore", images.allocated, restored)
        packs = [
            path for folder in ("packs", "maps") for path in (repo / folder).rglob("*") if path.is_file()
        ]
        self.stored = sum(path.stat().st_size for path in packs)
        for step, arguments in (("verify", ("--read-data", "all")), ("keyless", ("--keyless",))):
            sample, document = self._run("repo", "check", repo, *arguments)
            if not document["ok"] or document["bytes_read"] != self.stored:
                raise BenchError(f"{step} did not read everything, or found damage: {document}")
            self._note("vmkeep", step, self.stored, sample)

    def _cp(self, place: Path) -> None:
        self._copy("cp", place, ())

    def _cp_durable(self, place: Path) -> None:
        self._copy("cp+sync", place, ("-c", 'cp --sparse=auto --reflink=never "$1" "$2" && sync "$2"', "sh"))

    def _copy(self, tool: str, place: Path, shell: Sequence[str]) -> None:
        source, copy = self._images.generations[0], place / "copy.raw"
        command = [*(("sh", *shell) if shell else ("cp", "--sparse=auto", "--reflink=never"))]
        sample, _ = measure([*command, str(source), str(copy)], self._environment)
        if not same_bytes(source, copy):
            raise BenchError("cp copied wrongly")
        self._note(tool, "copy", self._images.allocated, sample)

    def _zstd(self, place: Path) -> None:
        packed, again = place / "dense.zst", place / "dense.bin"
        for step, arguments in (
            ("compress", ("-1", "-T2", self._images.dense, "-o", packed)),
            ("decompress", ("-d", packed, "-o", again)),
            ("test", ("-t", packed)),
        ):
            sample, _ = measure(["zstd", "-q", *map(str, arguments)], self._environment)
            self._note("zstd", step, self._images.allocated, sample)
        if not same_bytes(again, self._images.dense):
            raise BenchError("zstd gave back other bytes")


def child_environment(folder: Path) -> dict[str, str]:
    """Return the environment of the measured processes: this checkout, as if it were installed."""
    environment = dict(os.environ)
    # An installed program has its bytecode; compiling at every start is not what is measured.
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "VMKEEP_REPO"):
        environment.pop(name, None)
    environment["PYTHONPATH"] = str(ROOT / "src")
    environment["VMKEEP_PASSWORD"] = "bench"
    environment["VMKEEP_STATE_DIR"] = str(folder / "state")
    environment["VMKEEP_CACHE_DIR"] = str(folder / "cache")
    return environment


# --- reporting ----------------------------------------------------------------------

# What each step is held against: copying the disk, and zstd doing the nearest thing.
_AGAINST: Final = {
    "full": "compress",
    "increment, ranges declared": "compress",
    "increment, ranges lost": "compress",
    "restore": "decompress",
    "verify": "test",
    "keyless": "test",
}


_LEGEND: Final = (
    "x = wall time as a multiple of the other tool's: cp copies the whole disk (+sync: until it is on the "
    "medium, as vmkeep's always is); zstd -1 -T2 compresses, decompresses or tests the data without holes. "
    "GB are the data a step has to deal with: allocated, declared as changed, or (verify, keyless) stored. "
    "RSS below some 30 MB is this program's own."
)


def table(bench: Bench, images: Images) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"Data: {images.allocated / 1e9:.2f} GB allocated in a disk of {images.size / 1e9:.2f} GB, "
        f"{images.changed / 1e6:.1f} MB declared as changed; stored after three restore points: "
        f"{bench.stored / 1e6:.0f} MB. Page cache warm.",
        "",
        "| step | wall s, median (min-max) | GB/s | CPU s | CPU s/GB | RSS MB | x cp | x cp+sync | x zstd |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for series in bench.series.values():
        low, high = series.span
        wall, cpu, gigabytes = series.median("wall"), series.median("cpu"), series.volume / 1e9
        rates = (
            [f"{gigabytes / wall:.2f}", f"{cpu:.2f}", f"{cpu / gigabytes:.2f}"]
            if gigabytes
            else ["", f"{cpu:.2f}", ""]
        )
        cells = [
            f"{series.tool}: {series.step}",
            f"{wall:.2f} ({low:.2f}-{high:.2f})",
            *rates,
            f"{series.median('rss') / 1e6:.0f}",
            *_ratios(bench, series),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", _LEGEND, "", noise(bench)]
    return "\n".join(lines)


def _ratios(bench: Bench, series: Series) -> list[str]:
    if series.tool != "vmkeep" or series.step not in _AGAINST:
        return ["", "", ""]
    others = [("cp", "copy"), ("cp+sync", "copy"), ("zstd", _AGAINST[series.step])]
    found = [bench.series.get(other) for other in others]
    return [f"{series.median('wall') / other.median('wall'):.2f}" if other else "-" for other in found]


def noise(bench: Bench) -> str:
    """Say how far the figures can be trusted."""
    spread = {key: high / low for key, s in bench.series.items() for low, high in [s.span]}
    (tool, step), worst = max(spread.items(), key=lambda item: item[1])
    middle = statistics.median(spread.values())
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    judgement = (
        "quiet" if middle < 1.15 else "restless" if middle < 1.5 else "noisy: trust the ratios only roughly"
    )
    return (
        f"Noise: max/min is {middle:.2f} for the median step, {worst:.2f} for the worst ({tool}: {step}): "
        f"{judgement}. {processors} processors, load average {load:.1f} at the end; "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}."
    )


def document(bench: Bench, images: Images) -> dict[str, Any]:
    """Return the same figures for machines."""
    return {
        "allocated": images.allocated,
        "size": images.size,
        "changed": images.changed,
        "stored": bench.stored,
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "noise": noise(bench),
        "steps": [
            {
                "tool": s.tool,
                "step": s.step,
                "bytes": s.volume,
                "wall": s.median("wall"),
                "wall_min": s.span[0],
                "wall_max": s.span[1],
                "cpu": s.median("cpu"),
                "rss": s.median("rss"),
                "rounds": len(s.samples),
            }
            for s in bench.series.values()
        ],
    }


def peers_json() -> list[dict[str, str]]:
    """Return vmkeep's commands for a driver that fills in {src} {repo} {out} {changes} {dir}."""
    start = "env -u PYTHONDONTWRITEBYTECODE VMKEEP_PASSWORD=x "
    start += "VMKEEP_STATE_DIR={dir}/state VMKEEP_CACHE_DIR={dir}/cache "
    start += f"PYTHONPATH={shlex.quote(str(ROOT / 'src'))} {shlex.join(_VMKEEP)} "
    common = {
        "input": "vhdx",
        "restored": "raw",
        "init": start + "repo init {repo} --no-recovery-key",
        "full": start + "backup disk:{src} -r {repo} --as A",
        "vmB": start + "backup disk:{src} -r {repo} --as B",
        "restore": start + "restore A -r {repo} --format raw --to {out}",
        "verify": start + "repo check {repo} --read-data all",
    }
    declared = start + "backup disk:{src} -r {repo} --as A --changes {changes} --parent A"
    keyless = start + "repo check {repo} --keyless"
    return [
        {"name": "vmkeep", **common, "incr": declared},
        {"name": "vmkeep, ranges lost; verify keyless", **common, "incr": common["full"], "verify": keyless},
    ]


def main() -> int:
    """Measure and print; 1 when a step fails or gives a wrong result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="allocated data (512)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds in rotated order (5)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the data's seed (1)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to write, about 7 times --size")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--peers-json", action="store_true", help="print vmkeep's commands for another driver"
    )
    arguments = parser.parse_args()
    if arguments.peers_json:
        print(json.dumps(peers_json(), indent=1))
        return 0
    if arguments.size < 8 or arguments.rounds < 1:
        parser.error("at least 8 MiB and one round")

    def tell(text: str) -> None:
        print(f"bench: {text}", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="vmkeep-bench-", dir=arguments.work) as name:
        folder = Path(name)
        tell(f"making three generations of a disk with {arguments.size} MiB, seed {arguments.seed}")
        try:
            images = make_images(folder, arguments.size * MIB, arguments.seed)
            bench = Bench(images, folder)
            bench.rounds(arguments.rounds, tell)
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        print(json.dumps(document(bench, images)) if arguments.json else table(bench, images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
