"""Stain the slide between two passes."""
