"""Images of the review page.

Strips of cells, outlines, fields with their cells, the slide map, similar cells.
"""
