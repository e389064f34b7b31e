"""Data sets: shipped, published, or the user's own, each as one table of rows."""
