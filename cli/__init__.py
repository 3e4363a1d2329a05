"""What every command shares: the table of commands, options and progress."""
