"""How we score: benchmarks, protocols, metrics, the oracle and the report."""
