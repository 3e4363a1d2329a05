"""Calibration, fusion and uncertainty of probabilities; numpy only."""
