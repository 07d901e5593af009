"""How we score: one loop over benchmarks, protocols and rivals."""
