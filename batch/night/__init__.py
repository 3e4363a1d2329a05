"""What a night does beside its samples.

Checks, alerts, the morning page and figures for Prometheus.
"""
