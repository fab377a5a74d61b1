import json
from dataclasses import replace

import pytest
from tiny_lab import tiny_lab

from experiments.studies import STUDIES
from experiments.study import Options, frame, publish, run


def test_a_study_from_case_to_page(tmp_path):
    lab = tiny_lab(tmp_path)
    options = Options(("a_cat", "a_dog"), ("a_jar",), searches=1, effort=lab.effort)
    run(STUDIES["certificate"], lab, options)
    path = publish(STUDIES["certificate"], lab, options, tmp_path / "docs")
    print(path.read_text())
    assert "a_cat" in path.read_text()
