"""One self-contained page from a run's record. Imports no torch."""

from homegrown.report.page import write_report
from homegrown.report.run import ReportError

__all__ = ["ReportError", "write_report"]
