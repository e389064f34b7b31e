"""Building blocks of several methods; nothing here is a method."""
