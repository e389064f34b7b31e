"""Pre-training of the pocket CLIP shipped with clipalign: `python -m pretrain` from a checkout."""
