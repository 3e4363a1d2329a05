"""The page of the review: templates and static files; plain modules of JavaScript, nothing is built or fetched."""
