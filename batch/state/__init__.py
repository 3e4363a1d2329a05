"""The folder of a batch: its files, their one reader and writer, and what they say."""
