"""Scan one slide until the answer is precise enough."""
