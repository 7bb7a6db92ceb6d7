from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from dscnet.files.progress import photo_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("shown", [True, False])
def test_a_terminal_gets_a_bar_if_asked_and_the_log_the_rate(shown, monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO, "dscnet"), photo_progress(3, shown=shown) as done:
        for _ in range(3):
            done()
    assert ("100%" in terminal.getvalue()) == shown
    assert re.search(r"3 photos in \d+\.\d s: \d+\.\d\d photos/s", caplog.text)


def test_a_log_file_gets_no_bar(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with photo_progress(1) as done:
        done()
    assert file.getvalue() == ""
