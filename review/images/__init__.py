"""Images of the review page: strips of cells, outlines, fields with their cells, the slide map, similar cells."""
