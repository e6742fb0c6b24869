"""The comparison report: what it holds, and how it becomes a page or a dict."""

from accel.comparison.as_dict import report_as_dict
from accel.comparison.render import render_report, write_report
from accel.comparison.report import Comparison, Report, Run

__all__ = ["Comparison", "Report", "Run", "render_report", "report_as_dict", "write_report"]
