"""The page of the review: templates and static files.

Plain modules of JavaScript, nothing is built or fetched.
"""
