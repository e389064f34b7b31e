"""Maps of attention and of similarity to texts: computation, scores and figures."""
