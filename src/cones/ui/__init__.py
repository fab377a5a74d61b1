"""A local web page for concepts (``cones ui``): switch them on, weigh them, draw, compare.

:mod:`cones.ui.studio` is the logic and knows no web; :mod:`cones.ui.server` hands it to a browser.
The page loads nothing from elsewhere, and nothing is sent anywhere but to this machine.
"""
