"""Measure cells and fields."""
