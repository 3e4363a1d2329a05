"""The learning study.

Every way to fuse the modalities, trained and tested on the same folds of a lab's cells.
"""
