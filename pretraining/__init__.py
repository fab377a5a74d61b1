"""How the built-in weights were made: the drawn world, its pictures and the training runs."""
