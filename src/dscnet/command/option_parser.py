"""The class of the command line's parsers: complete option names, readable help and errors."""

from __future__ import annotations

import re
from argparse import Action, ArgumentTypeError
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from dscnet.command.hints import nearest_options, readable, removed_option
from dscnet.config.settings import removed_setting


class HelpFormatter(DefaultHelpFormatter):
    """Shows defaults that are informative, and no Python types."""

    def __init__(self, prog: str) -> None:
        # Room for the longest names, so that most options take one line.
        super().__init__(prog, max_help_position=30)  # type: ignore[no-untyped-call]

    def _get_type_str(self, action: Action) -> str | None:
        return None

    def _get_help_string(self, action: Action) -> str:
        text = str(super()._get_help_string(action))
        no_null = action.default is None and "null" not in (action.help or "")
        said = "(default: " in (action.help or "")
        if said or no_null or action.default in ("", []) or action.nargs == 0:
            text = text.replace(" (default: %(default)s)", "")
        return text


class Parser(ArgumentParser):
    """Accepts only complete option names, and suggests the nearest for an unknown one."""

    def __init__(self, **kwargs: Any) -> None:
        # With argparse's abbreviations `--forc` would delete a run.
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)
        self.verbs: dict[str, Parser] = {}
        self.with_settings = True
        self.often: tuple[str, ...] = ()
        self.all_settings = True

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one readable line and exit with 2."""
        # Errors in a settings file come from the main parser and name the verb.
        named = re.search(r"Subcommand '(\w+)'", message)
        parser = self.verbs.get(named[1], self) if named else self
        hint = nearest_options(message, parser.option_names(), parser.often)
        hint = f" (did you mean {hint}?)" if hint else ""
        if "config" in parser.option_names() and (name := removed_option(message)):
            message, hint = removed_setting(name), ""
        self.exit(2, f"{self.prog}: {self._as_typed(readable(message))}{hint}\n")

    def _as_typed(self, message: str) -> str:
        """Name missing options as they are typed: the main parser says "run.out"."""
        said, required, missing = message.partition("arguments are required: ")
        if not required:
            return message
        named = [name.partition(".") for name in missing.split(", ")]
        options = {verb: parser.option_names() for verb, parser in self.verbs.items()}
        typed = [f"--{name}" if name in options.get(verb, ()) else name for verb, _, name in named]
        return said + required + ", ".join(typed)

    def option_names(self) -> list[str]:
        """Names of the parser's options, without dashes."""
        options = (option for action in self._actions for option in action.option_strings)
        return [option.removeprefix("--") for option in options if option.startswith("--")]


def photo_size(text: str | Sequence[int]) -> tuple[int, int]:
    """Height and width from ``512``, ``384,512``, ``384x512`` or ``[384,512]``.

    Raises:
        ArgumentTypeError: If the text has another form.
    """
    numbers = re.findall(r"\d+", str(text))
    plain = re.fullmatch(r"[\[(]?\s*\d+(\s*[,x ]\s*\d+)?\s*[\])]?", str(text).strip())
    if plain is None or any(int(number) == 0 for number in numbers):
        raise ArgumentTypeError(
            "expected height and width in pixels, such as 384,512, or one number for both, such as"
            f" 512, got {text}"
        )
    return int(numbers[0]), int(numbers[-1])


class SizeType:
    """``photo_size`` as the type of an option, with a readable name."""

    def __call__(self, text: str) -> tuple[int, int]:
        """Height and width."""
        return photo_size(text)

    def __repr__(self) -> str:
        """The name."""
        return "HEIGHT,WIDTH"
