"""Calibration, fusion and uncertainty of predicted probabilities, by numpy and scipy alone."""
