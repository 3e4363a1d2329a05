"""One sample in a process of its own.

What it runs, what it tells, its deadlines and how it ended.
"""
