"""Files with which the operating system starts a batch every night: systemd units, a task of Windows."""
