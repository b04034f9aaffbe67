"""Records -> tables, CSV and JSON files, plots, and one HTML page.

A report is of one evaluation or of several, a set under a budget each. A dash stands for what is not known: a gap
without a reference, an interval of one instance, all of a solver that cannot take the problem.
"""

from ncogym.report.curves import anytime_curves
from ncogym.report.folder import check_folder, write_report
from ncogym.report.forms import latex_table, markdown_table, rich_table
from ncogym.report.tables import notes

__all__ = ["anytime_curves", "check_folder", "latex_table", "markdown_table", "notes", "rich_table", "write_report"]
