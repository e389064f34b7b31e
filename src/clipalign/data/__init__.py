"""Data sets: built in, published, or the user's own, each as one `Source`."""
