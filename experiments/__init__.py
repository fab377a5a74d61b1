"""Studies of the paper and beyond: one file a question, one runner, one table maker.

Not part of the wheel. Imports `cones` by its public names, and `cones.search` and `cones.models`
where a rival has to be trained or a prediction measured.
"""
