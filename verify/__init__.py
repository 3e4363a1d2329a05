"""Check every file of a sample: what is damaged, and which command makes it anew."""
