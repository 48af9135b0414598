"""A run folder → one self-contained HTML page. Reads files only, and needs no torch."""

from inpo.report.page import build_report

__all__ = ["build_report"]
