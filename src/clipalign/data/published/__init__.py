"""Published data sets, read from the folders in which users have them."""
