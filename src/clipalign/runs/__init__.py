"""Options, folders and results of runs."""
