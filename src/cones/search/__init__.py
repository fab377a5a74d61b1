"""The search for concept neurons (Secs. 2 and 3, Appendix A).

Read :mod:`start` (the first word), :mod:`loss` (Eqs. 1-4), :mod:`score` (Algorithms 1 and A2),
:mod:`select` (Eq. A20), :mod:`refine` and :mod:`certify`; :mod:`find` is the one call that joins
them. Nothing here imports diffusers: :mod:`cones.models` answers for the network.
"""
