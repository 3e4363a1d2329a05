"""Read the barcode on a slide's label, and compare it with the slide that is expected."""
