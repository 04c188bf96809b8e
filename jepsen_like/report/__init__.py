"""What people look at after a run: plots, a lane per session over time, the verdict with its reasons.

Knows a run's directory and nothing of how it came about; a missing or damaged piece is named on the page, and the rest
is shown all the same.
"""

from jepsen_like.report.pages import write_report

__all__ = ["write_report"]
