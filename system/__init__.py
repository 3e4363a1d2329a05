"""What every stage asks of the operating system.

Files, locks, child processes, signals, threads.
"""
