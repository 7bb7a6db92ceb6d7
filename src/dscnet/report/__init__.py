"""The HTML report of a run."""

from __future__ import annotations

from dscnet.report.page import ReportRow, write_report

__all__ = ["ReportRow", "write_report"]
