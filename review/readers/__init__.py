"""Two readers and more: blind readings, their agreement, adjudication, and the reference differential."""
