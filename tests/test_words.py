"""Texts use the field's words: none that CONTRIBUTING.md lists as dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HISTORY = ("docs/journal/", "docs/decisions/")
"""Dated pages keep the words of their time."""

ALLOWED = (
    "method.class_similarity",
    "dscnet.context.shrinkage_lda",
    *('"LabelDiscriminant"', '"label_shares"', '"likeness"', '"resnet38_taps"'),
    *("likeness = RenamedAttribute", "pointing = RenamedAttribute"),
    *('"auxseg.relabel"', '"method.likeness"'),
    *('"context.discriminant"', '"relabelling"', '"tag_scoring"'),
    *("discriminant = RenamedAttribute", "{prefix}discriminant.", "called ``discriminant``"),
)
"""Names that are kept: settings, module paths, and deprecated names of the public interface."""

CELL = re.compile(r"`([^`]+)`")
MARKUP = re.compile(r"`[^`]*`|\]\([^)]*\)")


def dropped_words(text: str) -> dict[str, re.Pattern[str]]:
    """Patterns of the dropped words in the table of the section "Words" of CONTRIBUTING.md."""
    section = text.split("\n## Words\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    words = [word for row in rows for word in CELL.findall(row)]
    # Not \b: parts of names, which underscores join, are words too.
    return {word: re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])", re.IGNORECASE) for word in words}


def findings(root: Path, paths: Iterable[Path], words: dict[str, re.Pattern[str]]) -> Iterator[str]:
    """``FILE:LINE: word`` for each dropped word; code and links in Markdown do not count."""
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            text = MARKUP.sub("", line) if path.suffix == ".md" else line
            for name in ALLOWED:
                text = text.replace(name, "")
            for word, pattern in words.items():
                if pattern.search(text):
                    yield f"{path.relative_to(root).as_posix()}:{number}: {word}"


def texts(root: Path) -> list[Path]:
    """Files whose texts users read."""
    source = [
        path for ending in ("py", "yaml", "html", "css") for path in root.rglob(f"*.{ending}")
    ]
    paths = [path for path in source if path.is_relative_to(root / "src")]
    paths += [root / "README.md", *(root / "docs").rglob("*.md")]
    excluded = HISTORY
    return sorted(
        path for path in paths if not path.relative_to(root).as_posix().startswith(excluded)
    )


WORDS = dropped_words((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_texts_use_the_words_of_the_field() -> None:
    found = list(findings(ROOT, texts(ROOT), WORDS))
    assert not found, "dropped words (see CONTRIBUTING.md, Words):\n" + "\n".join(found)


def test_many_files_and_words_are_checked() -> None:
    checked = [path.relative_to(ROOT).as_posix() for path in texts(ROOT)]
    assert "src/dscnet/context/fusion.py" in checked and len(checked) > 60
    assert {"trunks?", "true masks?"} <= WORDS.keys() and len(WORDS) > 20


@pytest.mark.parametrize(
    ("name", "line", "word"),
    [
        ("a.py", "x = 1  # on the Trunk", "trunks?"),
        ("a.py", "def make_trunk(): ...", "trunks?"),
        ("a.md", "masks are made anew", "anew"),
        ("a.md", "the `trunk` and its [true masks](x.md)", "true masks?"),
    ],
)
def test_a_dropped_word_is_found_with_its_line(
    tmp_path: Path, name: str, line: str, word: str
) -> None:
    path = tmp_path / name
    path.write_text(f"fine\n{line}\n", encoding="utf-8")
    assert list(findings(tmp_path, [path], WORDS)) == [f"{name}:2: {word}"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.md", "`trunk` is code, [so](trunk.md) is this"),
        ("a.py", "share = config.method.class_similarity"),
        ("a.py", "trunkless = 1"),
    ],
)
def test_code_in_pages_and_kept_names_do_not_count(tmp_path: Path, name: str, line: str) -> None:
    path = tmp_path / name
    path.write_text(line + "\n", encoding="utf-8")
    assert not list(findings(tmp_path, [path], WORDS))
