"""One sample in a process of its own: what it runs, what it tells, its deadlines and how it ended."""
