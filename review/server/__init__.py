"""The server of the review page: who may ask for what, and the answers."""
