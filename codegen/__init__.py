"""From Programs and Graphs to bundles: lowering, plans, generated host code, compilation, cache."""
