"""Review: the page on which a person makes the count their own, its server and its images."""
