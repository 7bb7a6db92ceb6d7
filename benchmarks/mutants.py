"""How many one-line faults the tests notice: mutation testing of the method's modules.

python benchmarks/mutants.py                          20 mutants of every module
python benchmarks/mutants.py --sample 5 objective     of some, by part of their name
python benchmarks/mutants.py --report                 what the last run found

Mutants come from Cosmic Ray (``pip install 'dscnet[mutants]'``) and ``mutation_operators.py``.
Cosmic Ray cannot draw samples, and a session of it has one test command for all modules, so the
loop is ours: places in a module are drawn with a fixed seed, with one change at each. A mutant runs
in a copy of the repository in a temporary folder, against the module's own tests, in a process
forked after torch was imported; the working tree is never written to. Results go to the JSON after
each mutant, and a run that was interrupted continues. Killed mutants are not tried again as long as
their module stays the same, survivors as long as their tests do too; those that ran out of time,
which count as killed, always are. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import compileall
import difflib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from itertools import islice
from pathlib import Path
from py_compile import PycInvalidationMode
from tempfile import TemporaryDirectory
from typing import Any

# Before torch is imported, which reads it once.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import HealthCheck, settings
from mutation_operators import Mutant, is_other_program, mutants_by_place, mutated

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "mutants.json"
EQUIVALENT = REPOSITORY / "benchmarks" / "mutants_equivalent.json"
PACKAGE = Path("src") / "dscnet"

MODULES = (
    "context/*.py",
    "losses/*.py",
    "labels/*.py",
    "refine/*.py",
    "metrics/*.py",
    "objective.py",
    "training.py",
)
"""What is mutated, below the package; ``__init__.py`` files are left out."""

TESTS = {
    "labels/coco": ("test_labels_coco",),
    "context/output": ("test_fusion",),
    "refine/saliency": ("test_saliency_labels",),
    "losses/affinity": ("test_affinity_loss",),
    "losses/saliency": ("test_saliency_loss",),
    "objective": ("test_objective", "test_auxsegnet"),
}
"""Test modules where they are not one, named ``test_`` and the module's name."""

NEEDED = (
    "src",
    "tests",
    "recipes",
    "docs",
    "examples",
    "benchmarks",
    "pyproject.toml",
    "README.md",
)
"""What a copy of the repository holds."""

NOT_CODE = shutil.ignore_patterns("results", "__pycache__", ".*")
LEFT_OUT = "not slow and not data and not gpu"
LEAST_LIMIT, TIMES_BASELINE = 120.0, 10.0
"""A mutant may run this many seconds, or this many times as long as the tests take without it."""

KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"


# The same examples for every mutant, and a slow machine kills none.
settings.register_profile(
    "mutants", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)


def modules(names: list[str]) -> list[str]:
    """Modules below the package without their ending, those with a part of the name first asked."""
    root = REPOSITORY / PACKAGE
    found: list[str] = []
    for pattern in MODULES:
        files = sorted(file for file in root.glob(pattern) if file.name != "__init__.py")
        if not files:
            raise SystemExit(f"MODULES names {pattern!r}, which matches nothing in {PACKAGE}")
        found += [file.relative_to(root).with_suffix("").as_posix() for file in files]
    return [name for name in found if not names or any(part in name for part in names)]


def tests_of(module: str) -> list[str]:
    """Paths of a module's tests, and of the module itself for its examples."""
    stems = TESTS.get(module, (f"test_{module.rpartition('/')[2]}",))
    found = [file for stem in stems for file in sorted(REPOSITORY.glob(f"tests/**/{stem}.py"))]
    if not found:
        raise SystemExit(f"no tests of {module}: name them in TESTS of {Path(__file__).name}")
    files = [file.relative_to(REPOSITORY).as_posix() for file in found]
    return [*files, (PACKAGE / f"{module}.py").as_posix()]


def drawn(source: str, module: str, sample: int, seed: int) -> list[Mutant]:
    """Mutants of a module: distinct places, one of the changes that each allows."""
    places = mutants_by_place(source)
    draw = random.Random(f"{seed} {module}")
    # A larger sample holds the smaller one.
    order = draw.sample(sorted(places), len(places))
    one_each = (draw.choice(places[place]) for place in order)
    return list(islice((one for one in one_each if is_other_program(source, one)), sample))


def change(source: str, mutant: Mutant) -> tuple[str, str]:
    """The lines that a mutant changes, before and after."""
    lines = difflib.ndiff(source.splitlines(), mutated(source, mutant).splitlines())
    both = [line for line in lines if line[:2] in ("- ", "+ ")]
    before, after = ([line[2:].strip() for line in both if line[0] == sign] for sign in "-+")
    return " / ".join(filter(None, before)), " / ".join(filter(None, after))


def still_the_same(source: str, row: dict[str, Any]) -> bool:
    """Whether a noted mutant is what its operator makes today, and counts as another program."""
    mutant = Mutant(row["operator"], row["occurrence"], row["line"])
    try:
        same = change(source, mutant) == (row["before"], row["after"])
    except (AssertionError, KeyError):  # no such place, or no such operator
        return False
    return same and is_other_program(source, mutant)


def run_tests(copy: Path, tests: list[str], limit: float) -> tuple[str, float]:
    """Run tests on a copy of the repository in a process of its own.

    Returns:
        ``killed``, ``survived`` or ``timeout``, and the seconds that it took.
    """
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_tested(copy, tests)
    while time.monotonic() - start < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            survived = os.waitstatus_to_exitcode(status) == pytest.ExitCode.OK
            return SURVIVED if survived else KILLED, time.monotonic() - start
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMEOUT, time.monotonic() - start


def _be_tested(copy: Path, tests: list[str]) -> None:
    """The forked process: run pytest in the copy, say nothing, and end."""
    code = 1
    try:
        os.setsid()
        log = os.open(copy / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(copy)
        sys.path.insert(0, str(copy / "src"))
        os.environ["PYTHONPATH"] = str(copy / "src")
        # Pytest warns of plugins that were imported before it, and warnings are errors.
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        settings.load_profile("mutants")
        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-m", LEFT_OUT, *tests])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def copied(folder: Path) -> Path:
    """A copy of what the tests need."""
    for name in NEEDED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=NOT_CODE)
        else:
            shutil.copy(source, folder / name)
    # By content: a mutant is written within the second and may be as long as what it replaces.
    hashed = PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(folder / "src", quiet=1, invalidation_mode=hashed)
    return folder


def digest(files: list[Path]) -> str:
    """What files hold, in short."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def try_module(module: str, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Try the mutants of a module, and note each as it is done."""
    path = REPOSITORY / PACKAGE / f"{module}.py"
    source, tests = path.read_text(encoding="utf-8"), tests_of(module)
    code, proof = digest([path]), digest([REPOSITORY / test for test in tests[:-1]])
    others = [row for row in results["mutants"] if row["module"] != module]
    rows = [row for row in results["mutants"] if row["module"] == module and row["code"] == code]
    rows = [row for row in rows if still_the_same(source, row)]
    results["mutants"] = others + rows
    known = {(row["operator"], row["occurrence"]): row for row in rows}
    chosen = drawn(source, module, options.sample, options.seed)
    waiting = [mutant for mutant in chosen if mutant[:2] not in known]
    waiting += [
        Mutant(row["operator"], row["occurrence"], row["line"])
        for row in rows
        if row["outcome"] == TIMEOUT or (row["outcome"] == SURVIVED and row["tests"] != proof)
    ]
    if not waiting:
        return
    with TemporaryDirectory(prefix="mutants_") as folder:
        copy = copied(Path(folder))
        outcome, usual = run_tests(copy, tests, 600.0)
        if outcome != SURVIVED:
            raise SystemExit(
                f"{module}: its tests do not pass as it is\n{(copy / 'pytest.log').read_text()}"
            )
        limit = max(LEAST_LIMIT, TIMES_BASELINE * usual)
        for mutant in waiting:
            target = copy / PACKAGE / f"{module}.py"
            target.write_text(mutated(source, mutant), encoding="utf-8")
            outcome, seconds = run_tests(copy, tests, limit)
            before, after = change(source, mutant)
            row = {
                "module": module,
                "line": mutant.line,
                "operator": mutant.operator,
                "occurrence": mutant.occurrence,
                "before": before,
                "after": after,
                "outcome": outcome,
                "seconds": round(seconds, 1),
                "code": code,
                "tests": proof,
            }
            results["mutants"] = [
                other
                for other in results["mutants"]
                if (other["module"], other["operator"], other["occurrence"])
                != (module, *mutant[:2])
            ] + [row]
            write(results)
            print(f"{outcome:8} {seconds:5.1f} s  {place(row)}", flush=True)


def place(row: dict[str, Any]) -> str:
    """A mutant as a line of the report."""
    return f"{row['module']}.py:{row['line']}  {row['before']}  ->  {row['after']}"


def write(results: dict[str, Any]) -> None:
    """Write all results, in the order of modules and lines."""
    results["mutants"].sort(key=lambda row: (row["module"], row["line"], row["operator"]))
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, RESULTS)


def report(rows: list[dict[str, Any]]) -> int:
    """Print what was found.

    Returns:
        How many mutants no test notices, but for those listed as equivalent.
    """
    listed = {
        (row["module"], row["before"], row["after"]) for row in json.loads(EQUIVALENT.read_text())
    }
    survivors = [row for row in rows if row["outcome"] == SURVIVED]
    equivalent = [
        row for row in survivors if (row["module"], row["before"], row["after"]) in listed
    ]
    unseen = [row for row in survivors if row not in equivalent]
    for row in unseen:
        print("not noticed:", place(row))
    killed = len(rows) - len(survivors)
    share = 100 * killed / max(1, len(rows))
    print(
        f"{len(rows)} mutants of {len({row['module'] for row in rows})} modules: {killed} killed"
        f" ({share:.1f} %), {len(equivalent)} equivalent, {len(unseen)} not noticed"
    )
    return len(unseen)


def main() -> int:
    """Try mutants, or tell of those that were tried."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help="parts of names; none = all")
    parser.add_argument("--sample", type=int, default=20, help="mutants of a module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="try none")
    options = parser.parse_args()
    chosen = modules(options.modules)
    fresh: dict[str, Any] = {"mutants": []}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else fresh
    if not options.report:
        # What all tests need takes seconds to import: once, and not once a mutant. Nothing of ours.
        import lightning  # noqa: F401
        import segmentation_models_pytorch  # noqa: F401

        revision = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"]
        revision += ["--exclude=*"]  # the commit, whatever tags there are
        results |= {
            "command": " ".join(["python", "benchmarks/mutants.py", *sys.argv[1:]]),
            "seed": options.seed,
            "git_revision": subprocess.run(revision, capture_output=True, text=True).stdout.strip(),
        }
        for module in chosen:
            try_module(module, options, results)
    return 1 if report([row for row in results["mutants"] if row["module"] in chosen]) else 0


if __name__ == "__main__":
    sys.exit(main())
