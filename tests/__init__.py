"""Tests of clipalign, laid out as the package is."""
