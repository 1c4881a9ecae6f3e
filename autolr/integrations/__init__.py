"""Hooks into the training loops of other libraries, one file each; none is imported before it is asked for."""
