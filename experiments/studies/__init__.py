"""One file a question; a new one is a new file and a line in STUDIES."""

from experiments.studies import certificate
from experiments.study import Study

_ALL = (certificate.STUDY,)
STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
