"""Builders and reference computations shared by the tests."""
