"""Tables, curves and pictures from the folders of runs."""
