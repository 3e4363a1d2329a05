"""The tuned numbers of the segmentation, as models: defaults, units, ranges, benchmarks."""
