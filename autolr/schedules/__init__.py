"""Schedules: how the learning rate goes on from the one that was picked, and which one to take."""

from autolr.schedules.compare import compare_schedules
from autolr.schedules.comparison import ScheduleComparison
from autolr.schedules.make import make_scheduler
from autolr.schedules.rebase import rebase_scheduler
from autolr.schedules.second_order import SecondOrderLR

__all__ = ["ScheduleComparison", "SecondOrderLR", "compare_schedules", "make_scheduler", "rebase_scheduler"]
