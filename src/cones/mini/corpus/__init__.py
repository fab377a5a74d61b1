"""Build the corpus that the built-in model is trained on: ``python -m cones.mini.corpus DIR``."""
