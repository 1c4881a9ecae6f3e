"""Schedules: how the learning rate goes on from the one that was picked."""

from autolr.schedules.make import make_scheduler
from autolr.schedules.rebase import rebase_scheduler

__all__ = ["make_scheduler", "rebase_scheduler"]
