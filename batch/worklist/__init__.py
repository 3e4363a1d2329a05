"""Worklists: a CSV file as laboratories make it becomes rows, or all its mistakes at once."""

from wbcpipe.batch.worklist.read import Worklist, inspect_worklist, read_worklist

__all__ = ["Worklist", "inspect_worklist", "read_worklist"]
