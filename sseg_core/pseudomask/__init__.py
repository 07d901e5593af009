"""Where masks come from: features, clustering and the generator."""
