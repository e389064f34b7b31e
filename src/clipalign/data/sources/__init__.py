"""The user's own data: folders, tables, shards and the Hub."""
