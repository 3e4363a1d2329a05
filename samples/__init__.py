"""The sample directory: the only reader and writer of each file of a sample."""
