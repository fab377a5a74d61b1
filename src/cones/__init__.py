"""Cones: find the concept neurons of a subject in a diffusion model, and shut them."""

__version__ = "0.1.0"
