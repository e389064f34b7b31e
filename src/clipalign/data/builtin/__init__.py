"""The shipped data sets."""
