"""Leaves that every other package may import."""
