"""One look at a host as text for people."""

from sockwatch.export.report.page import Page
from sockwatch.export.report.text import report

__all__ = ["Page", "report"]
