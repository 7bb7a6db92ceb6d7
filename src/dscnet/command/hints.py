"""Readable messages for invalid options: what was expected, and the nearest right word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from dscnet.config.legacy import REMOVED
from dscnet.files.similar_names import did_you_mean

_CHOICE = re.compile(
    r'Parser key "(?P<key>[\w.]+)":.*?Literal\[(?P<known>[^\]]*)\]\.? ?.*?[vV]alue: (?P<got>.*)',
    re.DOTALL,
)
_VERB = re.compile(r"invalid choice: '(?P<got>[^']*)' \(choose from (?P<known>[^)]*)\)")


def nearest_options(message: str, names: Sequence[str], first: Sequence[str] = ()) -> str:
    """The options nearest to the first unknown one of an error message.

    Args:
        message: Message of the parser.
        names: Known options, without dashes.
        first: Those that are meant most often.

    Returns:
        The option, or two settings that share the name of the unknown one (``--train.epochs or
        --segment.epochs`` for ``--epochs``); "" if none is similar, or the message is about
        something else.
    """
    unknown = unknown_options(message)
    if not unknown:
        return ""
    same = [name for name in names if name.rpartition(".")[2] == unknown[0]]
    same.sort(key=lambda name: (name not in first, not name.startswith(("train.", "segment."))))
    nearest = same[:2] or get_close_matches(unknown[0], names, n=1)
    return " or ".join(f"--{name}" for name in nearest)


def removed_option(message: str) -> str | None:
    """The first former setting among the unknown options of an error message."""
    return next((name for name in unknown_options(message) if name in REMOVED), None)


def unknown_options(message: str) -> list[str]:
    """Names of the unknown options of an error message, without dashes."""
    # jsonargparse's wording for the command line and for a settings file.
    if "unrecognized arguments:" in message:
        return re.findall(r"--([\w.]+)", message)
    return re.findall(r"not accept option '([\w.]+)'", message)


def readable(message: str) -> str:
    """Replace jsonargparse's wording for a value that is not among the choices."""
    if found := _VERB.search(message):
        known = re.findall(r"'([^']+)'", found["known"])
        hint = did_you_mean(found["got"], known)
        return f"no verb {found['got']}{hint}; there are {', '.join(known)}"
    if found := _CHOICE.search(message):
        known = re.findall(r"'([^']+)'", found["known"])
        got = found["got"].strip().splitlines()[0]
        kind = "a number or one of" if "'float'" in message else "one of"
        hint = did_you_mean(got, known)
        return f"--{found['key']} must be {kind} {', '.join(known)}, got {got}{hint}"
    return message
