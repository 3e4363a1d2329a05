"""What every stage asks of the operating system: files, locks, child processes, signals, threads."""
