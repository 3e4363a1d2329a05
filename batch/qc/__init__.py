"""Quality control of a microscope over the weeks: figures of checks and control slides, rules, charts."""
