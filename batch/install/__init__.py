"""Files with which the operating system starts a batch every night.

Systemd units, a task of Windows.
"""
