"""Batches: a worklist of slides, scanned and reported one after the other without an operator."""
