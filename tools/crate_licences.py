#!/usr/bin/env python3
"""Print the licences of the crates that are linked into the library.

    cargo metadata --format-version 1 --no-default-features --features pg15 | crate_licences.py

Crates that only build or test take no part. A text that several crates share is printed once.
"""

import json
import sys
from pathlib import Path

# What crates call the files that their licences ask to be passed on.
FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "COPYRIGHT*", "UNLICENSE*")


def linked(metadata):
    """The packages that the root package links, by id: those reached over its normal dependencies."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += [
                dependency["pkg"]
                for dependency in nodes[here]["deps"]
                if any(kind["kind"] is None for kind in dependency["dep_kinds"])
            ]
    return found


def main():
    metadata = json.load(sys.stdin)
    ids = linked(metadata)
    # `source` is null for what is in this repository.
    crates = [p for p in metadata["packages"] if p["id"] in ids and p["source"]]
    texts = {}
    print("Crates that are linked into pg_embed.so, from crates.io:\n")
    for crate in sorted(crates, key=lambda crate: (crate["name"], crate["version"])):
        name = f"{crate['name']} {crate['version']}"
        print(f"  {name}: {crate['license'] or crate['license_file']}")
        folder = Path(crate["manifest_path"]).parent
        for file in sorted({file for pattern in FILES for file in folder.glob(pattern) if file.is_file()}):
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            texts.setdefault(text, []).append(name)
    for text, names in texts.items():
        print(f"\n{'-' * 80}\n{', '.join(names)}:\n\n{text}")


if __name__ == "__main__":
    main()
