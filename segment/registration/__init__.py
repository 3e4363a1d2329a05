"""Register the modalities of a field to each other."""
