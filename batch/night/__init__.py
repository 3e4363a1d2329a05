"""What a night does beside its samples: checks, alerts, the morning page and figures for Prometheus."""
