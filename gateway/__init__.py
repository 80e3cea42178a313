"""How the world reaches the evaluator."""
