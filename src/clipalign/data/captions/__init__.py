"""Images with captions: sentences, tests, and files of the user."""
