#!/usr/bin/env python3
"""Print the licences of the crates that are linked into the library.

    cargo metadata --format-version 1 | crate_licences.py <(cargo tree -p pg_embed -e normal --prefix none --format '{p}')

Crates that only build or test take no part. A text that several crates share is printed once.
"""

import json
import sys
from pathlib import Path

# What crates call the files that their licences ask to be passed on.
FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "COPYRIGHT*", "UNLICENSE*")


def linked(tree):
    """Name and version of each package that `cargo tree` names. Metadata alone is of the whole workspace, with other features."""
    with open(tree, encoding="utf-8") as lines:
        return {tuple(line.split()[:2]) for line in lines}


def main():
    metadata = json.load(sys.stdin)
    names = linked(sys.argv[1])
    # `source` is null for what is in this repository.
    crates = [p for p in metadata["packages"] if (p["name"], f"v{p['version']}") in names and p["source"]]
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
