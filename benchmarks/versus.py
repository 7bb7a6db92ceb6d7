"""Compare time and memory of one command in two checkouts, which take turns; Linux and macOS.

python benchmarks/versus.py --old CHECKOUT --pairs 5 --json FILE -- \\
    -m dscnet.cli run --config {tree}/recipes/demo.yaml --data DATA --out {out}

What follows ``--`` is passed to ``python``; ``{tree}`` is the checkout and ``{out}`` a path that
does not exist yet, deleted after the run. Each pair runs both checkouts, in the other order than
the pair before, so that a drift of the machine cancels out. The same command with the same FILE
continues an interrupted comparison.

``--metric`` adds a number that the command itself reports, so that start-up is not part of it: a
dotted key of the last printed line that is a JSON object (``median_seconds.M4``), a key of a JSON
file (``{out}/stages.json#train.seconds``), or a regular expression with one group, whose last match
counts (``'train: done in (\\d+) s'``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SIDES = ("old", "new")
CODE = ("src", "recipes", ":(glob)benchmarks/*.py")
_SPIN = "while True: pass"
_ENVIRONMENT = """
import json, dscnet
from dscnet.run_folder import environment
print(json.dumps({"package": dscnet.__file__, "environment": environment(0)}))
"""
_POLICY = re.compile(r"(OMP|GOMP|KMP|MKL)_")


class Comparison(NamedTuple):
    """What is compared: the checkouts by side, Python's arguments, reported numbers, busy cores."""

    trees: dict[str, Path]
    words: list[str]
    metrics: list[str]
    busy: int


def main(argv: Sequence[str] | None = None) -> None:
    """Run the missing pairs and print the ratios."""
    options = _parser().parse_args(argv)
    trees = {"old": options.old.resolve(), "new": options.new.resolve()}
    if not options.dirty:
        for tree in trees.values():
            refuse_changes(tree)
    words = options.command[options.command[:1] == ["--"] :]
    task = Comparison(trees, words, options.metric, options.busy)
    content = describe(task)
    if options.json.exists():
        content = continued(options.json, content)
    while len(content["pairs"]) < options.pairs:
        content["pairs"].append(run_pair(task, len(content["pairs"])))
        content["ratios"] = ratios(content["pairs"])
        write(options.json, content)
        print(content["pairs"][-1], flush=True)
    print(table(content))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--new", type=Path, default=Path(__file__).parents[1], help="default: this")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--metric", action="append", default=[], help="a number that it reports")
    parser.add_argument("--busy", type=int, default=0, help="processes that spin beside each run")
    parser.add_argument("--dirty", action="store_true", help="allow uncommitted changes")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser


def refuse_changes(tree: Path) -> None:
    """Exit if the code of a checkout is not that of its commit."""
    if changed := _git(tree, "status", "--porcelain", "--", *CODE):
        sys.exit(f"{tree} has uncommitted changes (--dirty allows them):\n{changed}")


def describe(task: Comparison) -> dict[str, Any]:
    """The comparison without its pairs: command, commits, machine.

    Exits if Python imports another package than that of the checkout.
    """
    environments = {}
    for side, tree in task.trees.items():
        printed = subprocess.run(
            [sys.executable, "-c", _ENVIRONMENT],
            env=environment_of(tree),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        found = json.loads(printed.splitlines()[-1])
        # Without a package at this place Python takes the installed one, of either side.
        if Path(found["package"]).resolve() != tree / "src" / "dscnet" / "__init__.py":
            sys.exit(f"{tree} is not the root of a checkout: {found['package']} is imported")
        environments[side] = found["environment"]
    return {
        "command": ["python", *(without_folders(word) for word in task.words)],
        "metrics": task.metrics,
        "busy": task.busy,
        "commits": {side: _git(tree, "rev-parse", "HEAD") for side, tree in task.trees.items()},
        "variables": {k: v for k, v in sorted(os.environ.items()) if _POLICY.match(k)},
        "environment": environments["new"],
        "environment_old": environments["old"],
        "ratios": {},
        "pairs": [],
    }


def without_folders(word: str) -> str:
    """An argument with absolute paths shortened to their last part."""
    return re.sub(r"(?<![\w}.])/(?:[^/\s]+/)*", "", word)


def continued(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The stored comparison; exits if it is a different one."""
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in ("command", "metrics", "busy", "commits", "variables"):
        if stored[key] != content[key]:
            sys.exit(f"{path}: {key} is {stored[key]}, not {content[key]}: choose another --json")
    return stored


def run_pair(task: Comparison, index: int) -> dict[str, Any]:
    """Numbers of both checkouts, by side, and which one ran first."""
    order = SIDES if index % 2 == 0 else SIDES[::-1]
    return {"first": order[0], **{side: run_one(task, side) for side in order}}


def run_one(task: Comparison, side: str) -> dict[str, float]:
    """Wall and CPU seconds, peak memory of the largest process, and the numbers it reports."""
    tree = task.trees[side]
    with tempfile.TemporaryDirectory() as folder:
        places = {"{tree}": str(tree), "{out}": str(Path(folder) / "out")}
        command = [sys.executable, *(_fill(word, places) for word in task.words)]
        log = Path(folder) / "log"
        with busy_cores(task.busy), log.open("wb") as file:
            started = time.perf_counter()
            process = subprocess.Popen(
                command, env=environment_of(tree), cwd=folder, stdout=file, stderr=file
            )
            # Includes the processes that it has waited for.
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        printed = log.read_text(encoding="utf-8", errors="replace")
        if process.returncode:
            sys.exit(f"{side} failed with {process.returncode}:\n{printed[-4000:]}")
        unit = 1 if sys.platform == "darwin" else 1024  # bytes
        numbers = {
            "wall_seconds": round(wall, 3),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "peak_mib": round(usage.ru_maxrss * unit / 2**20, 1),
        }
        return numbers | {m: reported(_fill(m, places), printed) for m in task.metrics}


def _fill(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def environment_of(tree: Path) -> dict[str, str]:
    """Environment variables with which Python imports the package of a checkout."""
    return {**os.environ, "PYTHONPATH": str(tree / "src")}


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Other work: processes that never rest."""
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def reported(metric: str, printed: str) -> float:
    """The number that a metric names; exits if there is none.

    Args:
        metric: ``KEY.KEY``, ``FILE#KEY.KEY``, or a regular expression with one group.
        printed: What the command printed.
    """
    if "(" in metric:
        found = re.findall(metric, printed)
        if not found:
            sys.exit(f"--metric {metric} matches nothing in:\n{printed[-4000:]}")
        return float(found[-1])
    file, _, keys = metric.rpartition("#")
    value = json.loads(Path(file).read_text(encoding="utf-8")) if file else _last_object(printed)
    try:
        for key in keys.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return float(value)
    except (KeyError, TypeError, ValueError) as error:
        sys.exit(f"--metric {metric}: no such number ({error}) in {str(value)[:400]}")


def _last_object(printed: str) -> Any:
    for line in reversed(printed.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return {}


def ratios(pairs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """New over old of each pair: median, minimum and maximum, and the median of each side."""
    result = {}
    for name in pairs[0]["old"]:
        old, new = ([pair[side][name] for pair in pairs] for side in SIDES)
        each = [b / a for a, b in zip(old, new, strict=True) if a]
        if each:
            result[name] = {
                "median": round(statistics.median(each), 4),
                "min": round(min(each), 4),
                "max": round(max(each), 4),
                "old": round(statistics.median(old), 4),
                "new": round(statistics.median(new), 4),
            }
    return result


def table(content: dict[str, Any]) -> str:
    """The ratios as text."""
    lines = [f"{len(content['pairs'])} pairs of {' '.join(content['command'])}"]
    lines.append(f"{'new / old':32}{'median':>8}{'min':>8}{'max':>8}{'old':>12}{'new':>12}")
    for name, row in content["ratios"].items():
        ratio = "".join(f"{row[key]:8.3f}" for key in ("median", "min", "max"))
        lines.append(f"{name:32}{ratio}{row['old']:12.3f}{row['new']:12.3f}")
    return "\n".join(lines)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the comparison in one go, so that an interruption loses at most the current pair."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f"{path.name}.tmp")
    whole.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(whole, path)


def _git(tree: Path, *words: str) -> str:
    command = ["git", "-C", str(tree), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
