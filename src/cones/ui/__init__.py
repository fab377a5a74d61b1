"""A web page on this machine that draws with concepts (``cones ui``).

Nothing is loaded from elsewhere, and nothing is sent anywhere but to the browser.
"""

from cones.ui.server import serve

__all__ = ["serve"]
