"""The review journal of a sample: its entries, its file, and the state that follows from them."""
