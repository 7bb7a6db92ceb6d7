"""Parsing of tags and class names, the same for all file formats."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import chain

# The last four are their full-width forms.
_SEPARATORS = re.compile("[;|,\t\r\n\uff1b\uff5c\uff0c\u3001]")
_QUOTES = frozenset({"''", '""', "``", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb"})
# A list as written by Python, pandas, NumPy or JSON; in round or curly brackets only with quotes.
_LIST = re.compile(r"\[.*\]|[({]\s*(?:['\"].*)?[)}]", re.DOTALL)
_NEXT_QUOTE = re.compile(r"(?<=['\"])\s+(?=['\"])")
# Words between spaces, which need no further parsing: most rows of most files.
_WORDS = re.compile(r"[\w .-]*", re.ASCII)
# Zero-width characters. Joiners between non-ASCII letters are spelling (Persian, Hindi, emoji).
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe0e\ufe0f\ufeff]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
_NONE = frozenset({"negative", "negatives", "neg", "none", "null", "nan", "n/a"})
# Other joints of names besides the separators, and numbers such as confidences.
_JOINTS = re.compile(r"[^\w\s'-]+|\band\b|\b\d+\b")
_ABSENT = re.compile(r"(?:no|non|not|without)[ _-](.+)")


@lru_cache(maxsize=1 << 14)
def clean_name(text: str) -> str:
    """Normalise a class name for comparison and display.

    Applies NFC, removes invisible characters, collapses whitespace, and strips surrounding quotes.
    """
    name = " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).split())
    quoted = len(name) > 1 and name[0] + name[-1] in _QUOTES
    return name[1:-1].strip() if quoted else name


def written_forms(name: str) -> tuple[str, ...]:
    """The name itself, then in NFC (most systems) and NFD (macOS)."""
    if name.isascii():
        return (name,)
    return (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))


@lru_cache(maxsize=1 << 14)
def is_background(name: str) -> bool:
    """Whether a name is that of the background, ignoring case."""
    return clean_name(name).strip("_").casefold() == "background"


def foreground(names: Iterable[str]) -> tuple[str, ...]:
    """Class names as tags of a photo: cleaned, unique, without background."""
    cleaned = map(clean_name, names)
    return tuple(dict.fromkeys(name for name in cleaned if name and not is_background(name)))


@lru_cache(maxsize=1 << 14)
def says_none(name: str) -> bool:
    """Whether a word means "none of the classes": background, ``negative``, ``none``, ..."""
    return is_background(name) or clean_name(name).strip("_-<>").casefold() in _NONE


def without_none(names: Iterable[str], known: Collection[str] = ()) -> tuple[str, ...]:
    """The names without words for "none of the classes", unless they are known names."""
    return tuple(name for name in foreground(names) if name in known or not says_none(name))


def split_tags(labels: str | Sequence[str], known: Collection[str] = ()) -> tuple[str, ...]:
    """Parse the class names in one field of a tag file.

    Text is parsed as the first that applies: a known name; a list (``['cow', 'dog']``); names
    separated by ``;``, ``|``, ``,``, tabs or line breaks; names separated by spaces. A list has one
    name per item. Words for "none of the classes" are dropped unless they are known.

    Args:
        labels: Text, or a list of names.
        known: Cleaned class names.

    Returns:
        Cleaned, unique names in order.

    Raises:
        ValueError: If a list contains anything but names, or an unknown name that seems to be
            several.
    """
    if isinstance(labels, str):
        parts = _parts(labels, known)
    else:
        parts = [_item(item, known) for item in labels]
    return without_none(parts, known)


class TagParser:
    """`split_tags` for many fields: each word is looked at once.

    Args:
        known: Cleaned class names.

    Attributes:
        delimited: Names that occurred between separators or in a list.
    """

    def __init__(self, known: Collection[str] = ()) -> None:
        self.known = known
        self.delimited: set[str] = set()
        self._names = _Words(known)
        self._phrases = {name for name in known if " " in name}

    def __call__(self, labels: str | Sequence[str]) -> tuple[str, ...]:
        """Arguments, result and errors of `split_tags`."""
        if not isinstance(labels, str) or not _WORDS.fullmatch(labels):
            names = split_tags(labels, self.known)
            if is_separated(labels):
                self.delimited.update(names)
            return names
        words = labels.split()
        if len(words) == 1:
            return self._names[words[0]]
        if self._phrases and " ".join(words) in self._phrases:
            return split_tags(labels, self.known)
        return tuple(dict.fromkeys(chain.from_iterable(map(self._names.__getitem__, words))))


class _Words(dict[str, tuple[str, ...]]):
    """The names, one or none, that each word stands for."""

    def __init__(self, known: Collection[str]) -> None:
        super().__init__()
        self._known = known

    def __missing__(self, word: str) -> tuple[str, ...]:
        self[word] = names = split_tags(word, self._known)
        return names


def is_separated(labels: str | Sequence[str]) -> bool:
    """Whether the names in a field are delimited, so that they may contain spaces."""
    if not isinstance(labels, str):
        return True
    text = labels.strip()
    return bool(_SEPARATORS.search(text) or _LIST.fullmatch(text))


def name_warnings(classes: Sequence[str]) -> list[str]:
    """Warnings about suspicious class names."""
    warnings = []
    alike: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault(re.sub(r"[ _-]", "", plain), []).append(name)
    for twins in alike.values():
        if len(twins) > 1:
            more = "" if len({n.casefold() for n in twins}) == 1 else ", spaces, hyphens or width"
            warnings.append(
                f"{', '.join(twins)} differ only in case{more}"
                f" but are {len(twins)} classes; use one spelling if they are the same"
            )
    for name in classes:
        if parts := _joined(name, classes):
            warnings.append(
                f"{name!r} is a separate class besides {' and '.join(map(repr, parts))}; if it is a"
                " combination of these, write the names separated by ';'"
            )
        if says_none(name) or _denies(name, classes):
            warnings.append(
                f"{name!r} is a separate class, although its name suggests the absence of classes;"
                " if its photos show none of the classes, leave them untagged or, with class"
                " folders, put them into negatives/"
            )
    return warnings


def _joined(name: str, classes: Sequence[str]) -> list[str]:
    """The other classes that a name combines, ignoring punctuation, numbers and "and"."""
    words = [word.strip() for word in _JOINTS.split(name)]
    parts = list(dict.fromkeys(word for word in words if word))
    whole = parts == [name] or not all(word in classes for word in parts)
    return [] if whole else parts


def _denies(name: str, classes: Sequence[str]) -> bool:
    """Whether a name is "no" plus another name."""
    denied = _ABSENT.fullmatch(name.casefold())
    if denied is None:
        return False
    thing = denied[1].removesuffix("s")
    return any(thing in other.casefold() for other in classes if other != name)


def _parts(text: str, known: Collection[str]) -> Sequence[str]:
    whole, text = clean_name(text), text.strip()
    if whole in known:
        return [whole]
    if _LIST.fullmatch(text):
        return _listed(text)
    return _SEPARATORS.split(text) if _SEPARATORS.search(text) else text.split()


def _listed(text: str) -> list[str]:
    """Names in a list written as text."""
    commas = _NEXT_QUOTE.sub(", ", text)  # NumPy writes no commas
    found: object = None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(commas)
            break
        except (ValueError, SyntaxError, TypeError):
            continue
    else:
        inner = text[1:-1]
        return _SEPARATORS.split(inner) if _SEPARATORS.search(inner) else inner.split()
    if not found:
        return []
    items = list(found) if isinstance(found, list | tuple | set) else [found]
    if not all(item is None or isinstance(item, str | int | float) for item in items):
        raise ValueError(f"{text[:40]!r} is not a list of names; write names separated by ';'")
    names = [str(item) for item in items]
    return sorted(names) if isinstance(found, set) else names


def _item(item: str, known: Collection[str]) -> str:
    name = clean_name(item)
    if name not in known and _SEPARATORS.search(item.strip()):
        raise ValueError(
            f"{name!r} seems to be several names in one list item; write each as a separate item,"
            " or add it to classes.txt if it is one class"
        )
    return name
