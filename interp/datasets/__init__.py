"""Questions and what counts as a right answer."""
