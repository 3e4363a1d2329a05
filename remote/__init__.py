"""Object storage: samples that are pushed to a bucket, staged from it, and their results."""
