"""Statistics of a review: agreement of readers, and when a review may stop."""
