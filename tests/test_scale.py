"""Many searches: what is skipped, tried again, final and logged; and the same on Ray."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import pytest

import cones
from cones import scale
from cones.concept import Concept
from cones.errors import FileError, SubjectError
from cones.scale import Job, Told, here, on_ray, run, search
from cones.search.settings import Settings
from fakes import tiny_concept, tiny_pipeline


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    found = []
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_text(name)
        found.append(Job((tmp_path / name,), "cat", tmp_path / f"{name}.safetensors"))
    return found


def lines(log: Path) -> list[Told]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def writing(done: list[str], wrong: Callable[[Job], Exception | None] = lambda _: None) -> object:
    """Do a job by writing its name into its file."""

    def do(job: Job) -> Told:
        done.append(job.out.stem)
        if error := wrong(job):
            raise error
        job.out.write_text(job.out.stem)
        return {"verdict": "gained", "seconds": 0.1, "sha256": scale._digest(job.out)}

    return here(do)


def test_an_error_of_one_job_does_not_end_the_others(jobs: list[Job], tmp_path: Path) -> None:
    done, log = [], tmp_path / "log"

    def wrong(job: Job) -> Exception | None:
        return SubjectError("no photos;\n expected some") if job.out.stem == "b" else None

    found = run(jobs, log, writing(done, wrong))
    assert done == ["a", "b", "c"]  # and b was not tried again
    assert [each["state"] for each in found] == ["done", "failed", "done"]
    assert found[1]["error"] == "SubjectError: no photos; expected some"
    said = [(Path(str(e["out"])).stem, e["state"], e["tried"]) for e in lines(log)]
    both = [("started", 1), ("done", 1)]
    assert said == [
        *[("a", *each) for each in both],
        *[("b", *each) for each in (("started", 1), ("failed", 1))],
        *[("c", *each) for each in both],
    ]


@pytest.mark.parametrize(("retries", "times"), [(0, 1), (2, 3)])
def test_what_is_not_final_is_tried_again_after_the_others(
    jobs: list[Job], tmp_path: Path, retries: int, times: int
) -> None:
    done: list[str] = []

    def wrong(job: Job) -> Exception | None:
        return OSError("disk full") if job.out.stem == "a" else None

    told: list[tuple] = []
    found = run(
        jobs,
        tmp_path / "log",
        writing(done, wrong),
        retries=retries,
        progress=lambda *said: told.append(said),
    )
    assert done == ["a", "b", "c", *["a"] * (times - 1)]
    assert (found[0]["state"], found[0]["tried"]) == ("failed", times)
    assert told[-1][1:3] == (3, 3)
    assert [said[1] for said in told] == sorted(said[1] for said in told)


def test_what_succeeds_the_second_time_is_done(jobs: list[Job], tmp_path: Path) -> None:
    done: list[str] = []
    found = run(
        jobs, tmp_path / "log", writing(done, lambda _: None if done[1:] else MemoryError())
    )
    assert {each["state"] for each in found} == {"done"}
    assert "error" not in found[0]


def test_what_is_done_and_the_same_is_skipped(jobs: list[Job], tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(jobs, log, writing([]))
    again: list[str] = []
    found = run(jobs, log, writing(again))
    assert (again, [each["state"] for each in found]) == ([], ["there"] * 3)
    assert [each["verdict"] for each in found] == ["gained"] * 3
    (tmp_path / "a.safetensors").write_text("another")
    (tmp_path / "b" / "0.png").write_text("another photo")
    run(jobs[:1] + [replace(jobs[1])] + jobs[2:], log, writing(again))
    assert again == ["a", "b"]


def test_a_log_whose_last_line_was_cut_is_read_and_goes_on(
    jobs: list[Job], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    run(jobs[:1], log, writing([]))
    whole = log.read_text()
    log.write_text(f'{whole}\n{{"time": "20')
    again: list[str] = []
    run(jobs[:2], log, writing(again))
    assert again == ["b"]
    assert log.read_text().startswith(f'{whole}\n{{"time": "20\n{{"time"')


def test_as_many_are_done_at_once_as_is_said(jobs: list[Job], tmp_path: Path) -> None:
    barrier, most = Barrier(2), [0, 0]

    def do(job: Job) -> Told:
        most[0] += 1
        most[1] = max(most)
        if job.out.stem != "c":
            barrier.wait(10)  # a and b are there together
        most[0] -= 1
        return {"sha256": ""}

    with ThreadPoolExecutor() as pool:
        run(jobs, tmp_path / "log", lambda job: pool.submit(do, job), at_once=2)
    assert most[1] == 2


def test_a_key_stands_for_all_that_the_file_depends_on(jobs: list[Job], tmp_path: Path) -> None:
    job = jobs[0]
    other = [
        replace(job, noun="dog"),
        replace(job, identifier="W*"),
        replace(job, others=tmp_path / "b"),
        replace(job, photos=jobs[1].photos),
        replace(job, settings=Settings(seed=1)),
        replace(job, loading=(("model", "x"),)),
    ]
    keys = {each.key for each in (job, *other)}
    assert len(keys) == 7
    assert replace(job, out=tmp_path / "z", overwrite=True).key == job.key


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(cones.ConesError, match=r"pip install 'cones\[scale\]'"):
        on_ray("local").__enter__()


class Ray:
    """What is used of Ray, without any: keeps what it is asked for."""

    __spec__ = "as of a module"

    def __init__(self, **resources: float) -> None:
        self.resources, self.asked, self.up = resources, {}, False

    @contextmanager
    def init(self, address: str, **options: object) -> Iterator[None]:
        self.asked["init"], self.up = {"address": address, **options}, True
        yield
        self.up = False

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def nodes(self) -> list[int]:
        return [1, 2, 3]

    def remote(self, **wants: object) -> Callable:
        self.asked["remote"] = wants
        return lambda do: SimpleNamespace(
            remote=lambda job: SimpleNamespace(future=lambda: here(lambda _: {"by": do})(job))
        )


@pytest.mark.parametrize(
    ("there", "workers", "at_once", "wants"),
    [
        ({"CPU": 8.0}, None, 3, {"num_cpus": 2, "num_gpus": 0}),
        ({"CPU": 8.0}, 4, 4, {"num_cpus": 2, "num_gpus": 0}),
        ({"CPU": 1.0}, 4, 4, {"num_cpus": 1, "num_gpus": 0}),
        ({"CPU": 64.0, "GPU": 8.0}, None, 8, {"num_cpus": 1, "num_gpus": 1}),
    ],
)
def test_a_worker_gets_a_gpu_or_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, there: dict, workers: int | None, at_once: int, wants: dict
) -> None:
    ray = Ray(**there)
    monkeypatch.setitem(__import__("sys").modules, "ray", ray)
    with on_ray("auto", workers) as (submit, count):
        assert count == at_once
        assert ray.asked["remote"] == {**wants, "max_retries": 0, "max_calls": 0}
        assert ray.up
        future: Future = submit(Job((), "cat", Path("x")))
        assert future.result() == {"by": scale.attempt}
    assert not ray.up
    assert "num_cpus" not in ray.asked["init"]  # which Ray refuses for a cluster that exists


def test_other_tasks_take_the_same_road(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", Ray(CPU=1.0))
    with on_ray("auto", 1, print) as (submit, _):
        assert submit(Job((), "cat", Path("x"))).result() == {"by": print}


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Replace the search; keep what it was asked for."""
    asked: list[dict] = []

    def find(_: object, photos: object, **options: object) -> Concept:
        asked.append({"photos": photos, **options})
        return tiny_concept(tiny_pipeline())

    monkeypatch.setattr(cones, "find", find, raising=False)
    return asked


def test_a_search_writes_its_file_and_leaves_nothing_else(
    searched: list[dict], jobs: list[Job], tmp_path: Path
) -> None:
    found = search(jobs[0], None)
    assert found is not None
    assert cones.load(jobs[0].out).mask == found.mask
    assert not jobs[0].out.with_name("a.safetensors.part").exists()
    assert searched[0]["photos"] == tmp_path / "a"
    assert searched[0]["work"] == tmp_path / "a.safetensors.part"
    several = replace(jobs[0], photos=(tmp_path / "x", tmp_path / "y"), overwrite=True)
    search(several, None)
    assert searched[1]["photos"] == several.photos


def test_a_search_that_was_killed_while_it_wrote_is_not_done_again(
    searched: list[dict], jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, remove = jobs[0], shutil.rmtree

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for moment in ("cones.scale.write_atomic", "cones.scale.shutil.rmtree"):
        with monkeypatch.context() as patched:
            patched.setattr(moment, die)
            with pytest.raises(KeyboardInterrupt):
                search(job, None)
        assert search(job, None) is not None
        job.out.unlink()
        assert not job.out.with_name("a.safetensors.part").exists()
    assert len(searched) == 2
    assert remove is shutil.rmtree


def test_a_file_that_exists_is_refused_before_and_after_the_search(
    searched: list[dict], jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, find = jobs[0], cones.find
    job.out.write_text("mine")
    with pytest.raises(FileError, match="exists; expected a new name"):
        search(job, None)
    assert not searched
    job.out.unlink()

    def late(*given: object, **options: object) -> Concept:
        job.out.write_text("mine")
        return find(*given, **options)

    monkeypatch.setattr(cones, "find", late, raising=False)
    with pytest.raises(FileError, match="exists"):
        search(job, None)
    assert job.out.read_text() == "mine"
    job.out.unlink()
    assert search(job, None) is not None
    assert len(searched) == 1  # what was found is kept
    job.out.write_text("mine")
    search(replace(job, overwrite=True), None)
    assert cones.load(job.out)
