"""`measured/report.html`: what a person looks at to judge a build."""

from compiler.report.data import Build, ReportData, collect
from compiler.report.page import page

__all__ = ["Build", "ReportData", "collect", "page"]
