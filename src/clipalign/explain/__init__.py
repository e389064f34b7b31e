"""Where a model looks, and where it finds a text: maps, their scores, their pictures."""
