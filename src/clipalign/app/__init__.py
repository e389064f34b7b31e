"""The page of `clipalign app`: functions of models, photos and texts, and one file, `page.py`, that lays them out."""
