"""Does a folder of very many label files cost more than subfolders? Linux and macOS.

python benchmarks/many_files.py --json benchmarks/results/many_files.json

Writes files of 900 bytes (a small label PNG) as ``dscnet`` writes them, under another name and then
renamed, into one folder or into subfolders of 10,000; reads some of them in random order, and lists
all. Wall and CPU seconds of one thread; the file system is that of the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dscnet.files.atomic import whole_file
from dscnet.run_folder import environment

CONTENT = b"x" * 900
PER_FOLDER = 10_000
READ = 50_000


def main() -> None:
    """Measure every number of files in both arrangements, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    command = f"python benchmarks/many_files.py --files {' '.join(map(str, options.files))}"
    content = {"command": command, "environment": environment(0), "rows": []}
    for count in options.files:
        for folders in sorted({1, -(-count // PER_FOLDER)}):
            content["rows"].append(row := measure(count, folders))
            print(row, flush=True)
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def measure(count: int, folders: int) -> dict[str, Any]:
    """Microseconds of a file, written and read, and seconds of a list of all files."""
    with TemporaryDirectory() as name:
        root = Path(name)
        for index in range(folders):
            (root / str(index)).mkdir()
        paths = [
            root / str(index * folders // count) / f"photo_{index:08d}.png"
            for index in range(count)
        ]
        chosen = random.Random(0).sample(paths, min(READ, count))
        written = seconds(lambda: [write(path) for path in paths])
        read = seconds(lambda: [path.read_bytes() for path in chosen])
        listed = seconds(lambda: sum(len(files) for _, _, files in os.walk(root)))
        system = file_system(root)
    return {
        "files": count,
        "folders": folders,
        "file_system": system,
        "write_us": per_file(written, count),
        "read_us": per_file(read, len(chosen)),
        "list_seconds": listed,
    }


def write(path: Path) -> None:
    """Write a file as the program does."""
    with whole_file(path) as file:
        file.write(CONTENT)


def seconds(work: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {name: round(value, 3) for name, value in spent.items()}


def per_file(spent: dict[str, float], count: int) -> dict[str, float]:
    """Microseconds of a file."""
    return {name: round(1e6 * value / count, 1) for name, value in spent.items()}


def file_system(folder: Path) -> str:
    """Kind of the file system that contains a folder; "?" where ``df`` does not tell."""
    done = subprocess.run(["df", "-T", str(folder)], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return lines[-1].split()[1] if len(lines) > 1 else "?"


if __name__ == "__main__":
    main()
