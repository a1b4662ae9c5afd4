"""The report of one or more runs: one HTML file that needs no network."""

from __future__ import annotations

from sdsim.report.html.page import write_report

__all__ = ["write_report"]
