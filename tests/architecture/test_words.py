"""One word, one meaning: the words of docs/architecture.md, and none of the refused ones.

Reads sources, documents and file names. The command line's help needs no extra
look: all its words stand in the sources.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.architecture.checkout import is_binary, project_files, text_of

pytestmark = pytest.mark.quick


class Refused(NamedTuple):
    """A word that is not ours, and what we say instead."""

    pattern: str
    say: str


REFUSED: Final = (
    Refused(r"snapshot(s|ted|ting)?", "checkpoint (Hyper-V's), shadow copy (VSS's) or restore point (ours)"),
    Refused(r"backups", "restore points"),
    Refused(r"(newest|latest|oldest|previous|earlier|older) backup", "restore point"),
    Refused(
        r"(restore|read|list|open|mount|delete|remove|forget|drop|keep|verify|from|into) "
        r"(a|an|the|this|that|each|every|any|one|old|last) (\w+ )?backup",
        "restore point",
    ),
    Refused(
        r"backup (id|ids|chain|chains|set|sets|file|files|image|images|version|versions)", "restore point"
    ),
    Refused(r"archiv(e|es|ed|er|ing|al)", "restore point, pack or file"),
    Refused(r"vaults?", "repository"),
    Refused(r"blobs?", "chunk, pack or object"),
    Refused(r"data ?stores?", "repository or object store"),
    Refused(r"bookmarks?", "reference point"),
    Refused(r"cbt|changed block tracking", "RCT, changed ranges"),
    Refused(r"gfs|grandfather", "keep-daily, keep-weekly and so on"),
    Refused(r"purg(e|es|ed|er|ing)", "forget or prune"),
)

# Refused where people read, in documents and in what commands and errors say (docs/commands.md and
# docs/errors.md are made from these); a name in the code may still need them.
REFUSED_IN_DOCUMENTS: Final = (
    *REFUSED,
    Refused(r"clients?", "reader or writer (of a repository), guest or host"),
    Refused(r"storages?", "store (what holds a repository), medium, or what is meant"),
    Refused(r"sessions?", "run"),
    Refused(r"validat(e|es|ed|ing|ion|or|ors)", "check (a repository) or verify (that a VM boots)"),
    Refused(r"expir(e|es|ed|y|ation)", "keep-last, keep-daily and so on; a lease ends"),
    Refused(r"(off|on)line", "saved state or child VM snapshot (the VSS writer's ways)"),
    Refused(r"tasks?", "run, step"),
)

# What others call things, where we quote them: spelled exactly so, counted out
# before the search. In Markdown a word in double quotes is a quotation, too.
QUOTATIONS: Final = (
    r"Msvm_\w+",  # WMI classes: Msvm_VirtualSystemSnapshotService
    r"(?:Create|Destroy|Apply|Convert|Resulting)Snapshot(?:Tree)?|Snapshot(?:Type|Settings)",  # their members
    r"(?:Affected|Copy|Imported|IsAutomatic|Target|User)Snapshots?\w*|AutomaticSnapshotsEnabled",
    r"Snapshot(?:DataRoot|Folder|Information|SettingData|VirtualSystem)|(?<=\")Snapshot(?=\")",
    r"Microsoft:Hyper-V:Snapshot:\w*",  # what kind of system some settings are of
    r"(?<=[\"'/\\])[Ss]napshots(?=[\"'/\\])",  # the folder of an exported VM that holds its checkpoints
    r"VSS_\w+|IVss\w+|SnapshotSet(?:ID)?|PrepareForSnapshot",  # names of the VSS interface
    r"child-vm-snapshot|child VM snapshot|CHILD_VM_SNAPSHOT",  # the older host VSS writer's own word
    r"Azure Blob(?: Storage)?",  # the product's name
    r"\bsessions/",  # a prefix of format 1
)

REFUSED_NAMES: Final = {"util", "utils", "helper", "helpers", "manager", "handler", "common", "misc"}

_SUFFIXES: Final = {".py", ".md", ".toml", ".sh", ".txt", ".html", ".css", ".js"}
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def is_searched(path: Path) -> bool:
    """Sources and documents; tests may say anything, and lock lists and the licence are not our words."""
    if path.parts[0] in {"tests", "requirements"} or path.name in {"LICENSE", "pyproject.toml"}:
        return False
    return path.suffix in _SUFFIXES or path.name == "dev"


def refused_words(text: str, *, markdown: bool) -> Iterator[tuple[int, str, str]]:
    """Yield line number, words found and words to say for each refused use."""
    for number, line in enumerate(text.splitlines(), 1):
        for quotation in QUOTATIONS:
            line = re.sub(quotation, " ", line)
        if markdown:
            line = re.sub(r'"[^"]*"', " ", line)
        words = re.sub(r"[\W_]+", " ", _CAMEL.sub(" ", line))
        for refused in REFUSED_IN_DOCUMENTS if markdown else REFUSED:
            for found in re.finditer(rf"\b(?:{refused.pattern})\b", words, re.IGNORECASE):
                yield number, found[0], refused.say


def refused_parts(path: Path) -> list[str]:
    """Return the parts of a path that promise nothing: drawers instead of names."""
    stems = [re.split(r"[._-]", part.lower()) for part in path.parts]
    return [part for part, words in zip(path.parts, stems, strict=True) if REFUSED_NAMES & set(words)]


def test_refused_words_are_not_used() -> None:
    searched = [path for path in project_files() if is_searched(path) and not is_binary(path)]
    assert any(path.parts[0] == "src" for path in searched)
    faults = [
        f"{path}:{line}: {found!r}; say: {say}"
        for path in searched
        for line, found, say in refused_words(text_of(path), markdown=path.suffix == ".md")
    ]
    assert not faults, "\n".join(faults)


def test_file_names_say_what_is_inside() -> None:
    faults = [f"{path}: {parts}" for path in project_files() if (parts := refused_parts(path))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "def take_snapshot(vm): ...",
        "class VmSnapshot:",
        "SNAPSHOT_LIMIT = 3",
        "# the VSS snapshot is deleted",
        "Restore the last backup of the VM.",
        "two backups share chunks",
        "the previous backup",
        "backup_id = 3",
        "an archive of the VM",
        "the vault is locked",
        "BlobStore()",
        "reads the CBT of the disk",
        "purge old points",
        "keep_gfs = 1",
        "datastore: Path",
        "data_store",
    ],
)
def test_the_search_bites(line: str) -> None:
    assert [number for number, _, _ in refused_words(f"fine\n{line}", markdown=False)] == [2]
    assert list(refused_words(line, markdown=True))


@pytest.mark.parametrize(
    "line",
    [
        "Msvm_VirtualSystemSnapshotService.DestroySnapshot",
        "SnapshotType 32768",
        '{"virtual machines", "snapshots"}',
        r"C:\VMs\a\Snapshots\a.avhdx",
        "method child-vm-snapshot",
        "repeat the backup",
        "Backup and recovery for Microsoft Hyper-V",
        "a backup of a running VM",
        "vmkeep backup folder:PATH",
        "GuestBackupType",
        "checkpoint, restore point, changed ranges",
        "stored data",
    ],
)
def test_the_search_lets_pass(line: str) -> None:
    assert list(refused_words(line, markdown=False)) == []


@pytest.mark.parametrize(
    "line",
    [
        "the client remembers the head",
        "a storage that was rolled back",
        "a session of the writer",
        "validates every object",
        "points expire after a week",
        "an offline backup",
        "the task of a job",
    ],
)
def test_documents_are_searched_for_more(line: str) -> None:
    assert [number for number, _, _ in refused_words(f"fine\n{line}", markdown=True)] == [2]
    assert list(refused_words(line, markdown=False)) == []


def test_a_prefix_of_the_format_is_quoted() -> None:
    assert list(refused_words("`sessions/<run id>` hints", markdown=True)) == []


def test_markdown_may_quote_a_refused_word_in_double_quotes_only() -> None:
    assert list(refused_words('We never say "snapshot".', markdown=True)) == []
    assert list(refused_words("We never say `snapshot`.", markdown=True))
    assert list(refused_words('name = "snapshot"', markdown=False))


@pytest.mark.parametrize(
    "name", ["src/vmkeep/utils/a.py", "tests/helpers.py", "src/vmkeep/job_manager.py", "misc.md"]
)
def test_drawers_are_found(name: str) -> None:
    assert refused_parts(Path(name))


def test_names_are_not_drawers() -> None:
    assert refused_parts(Path("src/vmkeep/formats/disk.py")) == []
