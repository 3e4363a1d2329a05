"""Measure a microscope: dark level, flat field, geometry, backlash, focus offsets."""
