"""The process that runs a batch: what is done next, by whom, and what follows from it."""
