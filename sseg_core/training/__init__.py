"""How a model learns: the training step, the loop, the optimiser and what watches over them."""
