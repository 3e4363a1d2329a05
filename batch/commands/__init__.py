"""The subcommands of ``wbcpipe batch``."""
