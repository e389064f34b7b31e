"""Text: templates, prompts, tokens, the text tower and its features."""
