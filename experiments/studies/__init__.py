"""One file a question; a new one is a new file and its name here."""

from experiments.studies import (
    ablations,
    attention,
    certificate,
    frontier,
    gallery,
    overlap,
    rates,
    sequential,
    several,
    side_by_side,
    storage,
    table1,
    tuning,
    userstudy,
    values,
)
from experiments.study import Study

_ALL = (
    *(certificate.STUDY, gallery.STUDY, table1.STUDY, several.STUDY, frontier.STUDY),
    *(tuning.STUDY, rates.STUDY, ablations.STUDY, overlap.STUDY, storage.STUDY),
    *(attention.STUDY, values.STUDY, side_by_side.STUDY, sequential.STUDY, userstudy.STUDY),
)
STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
