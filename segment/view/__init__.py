"""Show one field to a person."""
