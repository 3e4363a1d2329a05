"""Run acquisition in a child process and restart it after a crash."""
