"""Makes the pocket CLIP's weights from other artists' drawings: `python -m clipalign.pretrain`.

Imports what it needs from the package and is imported by nothing.
"""
