"""Schedules: how the learning rate goes on from the one that was picked."""

from autolr.schedules.rebase import rebase_scheduler

__all__ = ["rebase_scheduler"]
