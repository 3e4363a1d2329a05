"""Train a network and build a bundle from it."""
