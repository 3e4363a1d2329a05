"""The virtual scope, its specimen and its faults."""
