"""The search: scores are trained, masks are recomputed after each step, the best epoch is kept."""
