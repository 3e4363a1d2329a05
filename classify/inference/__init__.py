"""Apply a bundle to cells."""
