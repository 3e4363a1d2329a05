"""Focus: search at one position, a surface over the slot, drift during a run."""
