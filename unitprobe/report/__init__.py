"""The browsable report: a folder with a page that opens from disk, its plots and its tables.

Nothing is fetched from a network: styles and script are in the page, plots are files in its folder.
"""

from unitprobe.report.comparison import NetworkResult, write_comparison
from unitprobe.report.folder import check_folder
from unitprobe.report.page import write_report

__all__ = ["NetworkResult", "check_folder", "write_comparison", "write_report"]
