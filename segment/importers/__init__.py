"""Import images made elsewhere, as fields or as cells."""
