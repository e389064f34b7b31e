"""Types, options, errors, registries, files and devices; imported by all other packages."""
