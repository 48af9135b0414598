"""`inpo compare`: methods side by side on one base, one data set and one budget, in cells that can be made anywhere and merged."""

from inpo.comparing.job import Choice, compare

__all__ = ["Choice", "compare"]
