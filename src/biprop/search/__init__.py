"""The search: scores are trained, the mask follows, the best epoch is kept."""
