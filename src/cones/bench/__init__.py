"""Measured figures, each as a function that returns a dictionary (``cones bench``)."""
