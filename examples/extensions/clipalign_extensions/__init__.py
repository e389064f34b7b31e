"""One extension of clipalign of each kind."""
