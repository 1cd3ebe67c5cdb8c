"""Write tests/data/wmi/*.json: of two real hosts, the WMI classes that vmkeep touches.

``python tools/wmi_extract.py FOLDER`` reads ``wmi-*.json`` in FOLDER: tables of
classes, properties and methods that the repository microsoft/wmi (MIT) generated
from the live schema of Windows Server 2019 and 23H2. What is kept are names and
types, with what a class inherits written out. Which classes: those declared in
``vmkeep.host.hyperv.classes``.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "tests" / "data" / "wmi"

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))

from vmkeep.host.hyperv import classes  # noqa: E402


def touched() -> list[tuple[str, str]]:
    """Return namespace and name of each class that vmkeep reads, writes or calls."""
    read = {(listed.namespace, listed.name) for listed in classes.CLASSES}
    written = {(classes.V2, embedded.name) for embedded in classes.EMBEDDED}
    return sorted(read | written | {(classes.V2, call.service) for call in classes.CALLS})


def with_parents(table: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """Yield a class and all it inherits from, itself first."""
    while name in table:
        yield table[name]
        name = table[name]["parent"]


def extract(host: Mapping[str, Any]) -> dict[str, Any]:
    """Return the touched classes of one host, flattened; KeyError for one it does not have."""
    out = {}
    for namespace, name in touched():
        table = host["namespaces"][namespace]["classes"]
        properties: dict[str, str] = {}
        methods: dict[str, list[str]] = {}
        table[name]  # a class that is not there must not become an empty one
        for found in with_parents(table, name):
            properties = {**found["properties"], **properties}
            for method, parameters in found["methods"].items():
                spelled = [f"{p['direction']} {p['name']} {p['type']}" for p in parameters]
                methods.setdefault(method, spelled)
        out[name] = {
            "namespace": namespace,
            "properties": dict(sorted(properties.items())),
            "methods": dict(sorted(methods.items())),
        }
    return {"host": host["host"], "source": host["source"], "classes": out}


def main() -> int:
    """Write one file for each table in the folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the tables lie")
    arguments = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    for table in sorted(arguments.folder.glob("wmi-*.json")):
        found = extract(json.loads(table.read_text("utf-8")))
        place = PLACE / table.name.removeprefix("wmi-")
        place.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8", newline="\n")
        print(f"{place.relative_to(ROOT)}: {len(found['classes'])} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
