"""The search for concept neurons (Secs. 2 and 3, Appendix A).

Read :mod:`loss` (Eqs. 1-4), :mod:`score` (Algorithms 1 and A2), :mod:`select` (Eq. A20) and
:mod:`refine` for the method; :mod:`find` is the one call that joins them. Nothing here imports
diffusers: :mod:`cones.models` answers for the network.
"""
