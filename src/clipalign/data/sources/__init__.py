"""Image files of the user: folders, tables, tar shards and the Hugging Face hub."""
