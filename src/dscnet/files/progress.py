"""A progress bar in a terminal, and the rate at the end."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("dscnet")


@contextmanager
def photo_progress(count: int, *, shown: bool = True) -> Iterator[Callable[[], None]]:
    """Show how many photos are done, and log the number per second.

    Args:
        count: Number of photos.
        shown: Whether to show a bar; without a terminal only the rate is logged.

    Yields:
        A function to call after each photo.
    """
    from rich.console import Console
    from rich.progress import Progress

    started = time.perf_counter()
    hidden = not (shown and sys.stderr.isatty())
    with Progress(console=Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task("photos", total=count)
        yield lambda: bar.advance(task)
    seconds = time.perf_counter() - started
    log.info("%d photos in %.1f s: %.2f photos/s", count, seconds, count / seconds)
