"""The text of ``dscnet settings``: names, defaults and meanings of the settings of a run."""

from __future__ import annotations

import re
import textwrap

from dscnet.command.arguments import build_parser
from dscnet.config import Config
from dscnet.config.settings import dotted_settings, to_dict
from dscnet.files.similar_names import did_you_mean


def setting_texts(word: str = "") -> str:
    """Settings whose name or meaning contains a word, two lines or more each.

    Args:
        word: The word, or any part of one; case does not count. "" = all settings.

    Raises:
        ValueError: If there is none.
    """
    known = to_dict(Config())
    meanings = {
        action.dest: str(action.help)
        for action in build_parser("run", all_settings=True).verbs["run"]._actions
        if action.dest.partition(".")[0] in known and action.metavar != "CONFIG"
    }
    defaults = dotted_settings(known)
    texts = [_text(name, defaults.get(name), meaning) for name, meaning in meanings.items()]
    found = [text for text in texts if word.lower() in " ".join(text.lower().split())]
    if not found:
        words = {part for text in texts for part in re.findall(r"[\w.]{3,}", text)}
        raise ValueError(f"no setting has the word {word}{did_you_mean(word, sorted(words))}")
    return "\n".join(found)


def _text(name: str, default: object, meaning: str) -> str:
    shown = "null" if default is None else str(default)
    first = f"{name} (default: {shown})" if shown else name
    return "\n".join(
        [first, *textwrap.wrap(meaning, 76, initial_indent="    ", subsequent_indent="    ")]
    )
