"""Quality control of a microscope over the weeks.

Figures of checks and control slides, rules, charts.
"""
