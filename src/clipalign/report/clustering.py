"""Order of classes by hierarchical clustering, so that similar ones are neighbours in a matrix."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform


def cluster_order(similarity: np.ndarray) -> np.ndarray:
    """Return the leaves of an average-linkage tree, ordered so that adjacent classes are as similar as possible.

    Args:
        similarity: [C, C], higher is more similar; made symmetric, its diagonal is ignored.

    Returns:
        [C] int64, a permutation of the classes.

    Example:
        >>> cluster_order(np.array([[1.0, 0.0, 0.9], [0.0, 1.0, 0.1], [0.9, 0.1, 1.0]])).tolist()
        [0, 2, 1]
    """
    count = len(similarity)
    if count < 3:
        return np.arange(count)
    both = (similarity + similarity.T) / 2  # [C, C]
    distance = both.max() - both  # [C, C]
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance.clip(0), checks=False)  # [C (C - 1) / 2]
    leaves = leaves_list(optimal_leaf_ordering(linkage(condensed, "average"), condensed))  # [C]
    # A tree has no direction; the first class is put in the first half.
    return leaves if np.flatnonzero(leaves == 0)[0] < count / 2 else leaves[::-1]
