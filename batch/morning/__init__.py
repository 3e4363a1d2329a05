"""The morning page: what became of every slide of a batch, and what to do now."""
