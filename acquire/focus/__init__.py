"""Focus: search at one place, a surface over the slot, drift during a run."""
