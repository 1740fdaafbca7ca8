"""The DAGs of ``captionbeam schedule airflow``, run by a real Airflow: scheduler, DAG processor, API server."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
from pathlib import Path

import psutil
import pytest

from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.data.nights import ENCODER, check_store, data_files, draw, make_place
from tests.builders.engines.airflow_server import Airflow
from tests.builders.running.zygote import captionbeam

pytestmark = pytest.mark.engines
COMMAND = ["--command", Path(sys.executable).with_name("captionbeam"), "--retries", "1"]
ALL = ("features", "captions", "verify", "promote")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("nights"))


@pytest.fixture(scope="module")
def airflow(place, tmp_path_factory):
    """Airflow with files of DAGs: two for the same stores, one that is wrong, one that is slow."""
    airflow = Airflow(tmp_path_factory.mktemp("airflow"))

    def add(name, *options):
        made = captionbeam("schedule", "airflow", "--name", name, *options, "--retry-delay", 1, *COMMAND)
        (airflow.dags / f"{name}.py").write_text(made.stdout)

    add("photos", *place.options())
    add("twin", *place.options())
    add("wrong", place.photos, "--captions", place.folder / "none", "--bundle", place.folder / "nowhere")
    add("slow", place.folder / "many", "--features", place.folder / "slow", "--verify", "weekly",
        f"--features-options={ENCODER} --shard-size 1 --batch-size 1")  # fmt: skip
    with airflow.running():
        yield airflow


@pytest.fixture(scope="module")
def first_night(airflow, place):
    """Two schedules of the same stores at once."""
    runs = {dag: airflow.trigger(dag) for dag in ("captionbeam_photos", "captionbeam_twin")}
    for dag, run in runs.items():
        assert airflow.finished(dag, run) == "success", airflow.log(dag, run, "features")
    return runs


def run(airflow, dag, **conf):
    """A run to its end: its id, its state, its tasks."""
    started = airflow.trigger(dag, **conf)
    state = airflow.finished(dag, started)
    return started, state, airflow.tasks(dag, started)


def processes(*words):
    """Running captionbeam commands with all of ``words``."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(word.endswith("/captionbeam") for word in line[:2]) and {*map(str, words)} <= {*line}:
            yield process


def test_airflow_takes_the_files(airflow):
    said = airflow.command("dags", "list-import-errors", "--output", "json").stdout
    assert "No data found" in said or json.loads(said.strip().splitlines()[-1]) == []
    dags = airflow.python(
        """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag()
assert not bag.import_errors, bag.import_errors
heavy = ("apache_beam", "torch", "pyarrow", "captionbeam.jobs", "captionbeam.schemas")
loaded = [name for name in heavy if name in sys.modules]
print(json.dumps({"loaded": loaded, "dags": {
    dag.dag_id: {"cron": getattr(dag.timetable, "expression", None), "runs": dag.max_active_runs,
        "catchup": dag.catchup, "tags": sorted(dag.tags), "params": sorted(dag.params),
        "tasks": {t.task_id: [sorted(t.upstream_task_ids), t.retries, t.retry_exponential_backoff > 1,
            t.execution_timeout.total_seconds()] for t in dag.tasks}}
    for dag in bag.dags.values()}}))
"""
    )
    assert dags["loaded"] == []
    found = dags["dags"]
    names = ("photos", "twin", "wrong", "slow")
    by_hand = {f"captionbeam_{name}_bulk" for name in ("photos", "twin", "wrong")}
    weekly = {f"captionbeam_{name}_upkeep" for name in names}
    assert found.keys() == {f"captionbeam_{name}" for name in names} | weekly | by_hand
    for dag in found.values():
        assert (dag["runs"], dag["catchup"]) == (1, False)
        assert all(task[1:3] == [1, True] for task in dag["tasks"].values())
    nightly = found["captionbeam_photos"]
    assert {task[3] for task in nightly["tasks"].values()} == {12 * 3600}
    assert (nightly["cron"], nightly["tags"]) == ("0 2 * * *", ["captionbeam", "photos"])
    assert nightly["params"] == ["max_deletes", "publish_anyway", "retry_failures"]
    assert {name: task[0] for name, task in nightly["tasks"].items()} == {
        "features": [], "captions": ["features"], "verify": ["captions"], "promote": ["verify"]
    }  # fmt: skip
    assert list(found["captionbeam_slow"]["tasks"]) == ["features"]
    airflow.wait_for(
        "a time", lambda: airflow.get("dags/captionbeam_twin")["next_dagrun_run_after"] is not None
    )
    assert airflow.get("dags/captionbeam_twin")["next_dagrun_run_after"].endswith("T02:00:00Z")
    assert airflow.get("dags/captionbeam_twin/dagRuns?run_type=scheduled")["total_entries"] == 0
    assert found["captionbeam_photos_upkeep"]["cron"] == "0 12 * * 0"
    assert (found["captionbeam_photos_bulk"]["cron"], found["captionbeam_photos_bulk"]["params"]) == (
        None, ["output", "sources"],
    )  # fmt: skip


def test_two_schedules_of_the_same_stores_at_once(airflow, place, first_night):
    """Both end well, each image is there once, and the tag stands for the newest snapshot."""
    place.check()
    for dag, started in first_night.items():
        assert airflow.tasks(dag, started) == dict.fromkeys(ALL, ("success", 1))
        assert airflow.result(dag, started, "features")["store"]["rows"] == 8
    newest = layout.snapshot_ids(str(place.captions))[-1]
    assert Store.open(f"{place.captions}@prod").snapshot_id == newest


def test_the_nights_after(airflow, place, first_night):
    """One image new, one changed, one gone; then too many gone, which somebody allows."""
    photos = "captionbeam_photos"
    before = {store: data_files(store) for store in (place.features, place.captions)}
    names = sorted(place.names())
    (fresh,) = draw(place.folder / "fresh", 1, "val")
    shutil.copy(fresh, place.photos / "new.jpg")
    shutil.copy(fresh, place.photos / names[1])
    (place.photos / names[0]).unlink()
    started, state, tasks = run(airflow, photos, max_deletes=1)
    assert (state, tasks) == ("success", dict.fromkeys(ALL, ("success", 1)))
    for task, store in (("features", place.features), ("captions", place.captions)):
        totals = airflow.result(photos, started, task)
        listing = {name: totals["listing"][name] for name in ("new", "changed", "gone", "unchanged")}
        assert listing == {"new": 1, "changed": 1, "gone": 1, "unchanged": 6}
        assert (totals["images"], totals["warned"]) == (2, False)
        assert data_files(store).items() > before[store].items()
    place.check()
    promoted = Store.open(f"{place.captions}@prod").snapshot_id
    assert promoted == airflow.result(photos, started, "captions")["snapshot"]

    for name in names[2:7]:
        (place.photos / name).unlink()
    started, state, tasks = run(airflow, photos)
    assert (state, tasks["features"]) == ("failed", ("failed", 2))
    assert tasks["captions"][0] == tasks["promote"][0] == "upstream_failed"
    assert "--max-deletes" in airflow.log(photos, started, "features", 2)
    assert Store.open(f"{place.captions}@prod").snapshot_id == promoted
    _, state, _ = run(airflow, photos, max_deletes=0.9)
    assert state == "success"
    place.check()


def test_a_wrong_request_fails_at_once(airflow, place):
    """No retry, though there is one left; and the log has the sentence."""
    started, state, tasks = run(airflow, "captionbeam_wrong")
    assert (state, tasks["captions"]) == ("failed", ("failed", 1))
    assert f"{place.folder}/nowhere" in airflow.log("captionbeam_wrong", started, "captions")


def test_a_task_that_is_killed_goes_on(airflow, place):
    """kill -9 in the middle: the retry does what is left, and no committed shard again."""
    draw(place.folder / "many", 40)
    store = place.folder / "slow"
    started = airflow.trigger("captionbeam_slow")
    airflow.wait_for("some commits", lambda: len(layout.committed_shards(str(store))) >= 4)
    (process,) = processes("refresh", store)
    process.kill()
    committed = data_files(store)
    assert airflow.finished("captionbeam_slow", started) == "success"
    assert airflow.tasks("captionbeam_slow", started) == {"features": ("success", 2)}
    assert "return code -9" in airflow.log("captionbeam_slow", started, "features", 1)
    totals = airflow.result("captionbeam_slow", started, "features")
    assert 0 < totals["images"] <= 36
    assert totals["images"] + totals["adopted"]["rows"] == 40
    assert data_files(store).items() >= committed.items()
    check_store(store, {path.name for path in (place.folder / "many").iterdir()})


def test_a_week_s_upkeep(airflow, place, first_night):
    _, state, tasks = run(airflow, "captionbeam_photos_upkeep")
    steps = ("vacuum_features", "vacuum_captions", "verify_features", "verify_captions")
    assert (state, tasks) == ("success", dict.fromkeys(steps, ("success", 1)))
    place.check()


def test_bulk_captions_by_hand(airflow, place):
    output = place.folder / "bulk"
    with pytest.raises(urllib.error.HTTPError) as refused:
        airflow.trigger("captionbeam_photos_bulk", sources=[], output=str(output))
    assert refused.value.code == 400
    sources = [
        draw(place.folder / name, 1, split)[0].parent for name, split in (("a", "val"), ("b b", "test"))
    ]
    _, state, tasks = run(
        airflow, "captionbeam_photos_bulk", sources=list(map(str, sources)), output=str(output)
    )
    assert (state, tasks) == ("success", {"captions": ("success", 1), "verify": ("success", 1)})
    check_store(output, {path.name for source in sources for path in source.iterdir()})
