"""One command per file: a frozen dataclass of options whose ``run()`` runs one pipeline or one training job.

The classes are attributes of this package and of ``captionbeam``; each is imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captionbeam.jobs.caption import Caption
    from captionbeam.jobs.demo import Demo
    from captionbeam.jobs.encode import Encode
    from captionbeam.jobs.evaluate import Evaluate
    from captionbeam.jobs.import_features import ImportFeatures
    from captionbeam.jobs.predictions import Predictions
    from captionbeam.jobs.refresh import Refresh
    from captionbeam.jobs.report import Report
    from captionbeam.jobs.schedules.airflow import AirflowSchedule
    from captionbeam.jobs.schedules.cloud_scheduler import CloudSchedule
    from captionbeam.jobs.schedules.cronjob import CronJobSchedule
    from captionbeam.jobs.score import Score
    from captionbeam.jobs.store_commands.export import ExportSnapshot
    from captionbeam.jobs.store_commands.purge import PurgeImages
    from captionbeam.jobs.store_commands.retry import RetryFailures
    from captionbeam.jobs.store_commands.snapshots import (
        DiffSnapshots,
        ListFailures,
        ListSnapshots,
        ShowSnapshot,
    )
    from captionbeam.jobs.store_commands.tags import PromoteSnapshot, Rollback, TagSnapshot
    from captionbeam.jobs.store_commands.upkeep import CompactStore, VacuumStore, VerifyStore
    from captionbeam.jobs.svd import FitComponents
    from captionbeam.jobs.tokenize import Tokenize
    from captionbeam.jobs.train import Train
    from captionbeam.jobs.workers import ServeWorkers

__all__ = [
    "AirflowSchedule",
    "Caption",
    "CloudSchedule",
    "CompactStore",
    "CronJobSchedule",
    "Demo",
    "DiffSnapshots",
    "Encode",
    "Evaluate",
    "ExportSnapshot",
    "FitComponents",
    "ImportFeatures",
    "ListFailures",
    "ListSnapshots",
    "Predictions",
    "PromoteSnapshot",
    "PurgeImages",
    "Refresh",
    "Report",
    "RetryFailures",
    "Rollback",
    "Score",
    "ServeWorkers",
    "ShowSnapshot",
    "TagSnapshot",
    "Tokenize",
    "Train",
    "VacuumStore",
    "VerifyStore",
]

COMMANDS = {
    "encode": "encode:Encode",
    "import-features": "import_features:ImportFeatures",
    "svd": "svd:FitComponents",
    "tokenize": "tokenize:Tokenize",
    "train": "train:Train",
    "caption": "caption:Caption",
    "score": "score:Score",
    "evaluate": "evaluate:Evaluate",
    "predictions": "predictions:Predictions",
    "report": "report:Report",
    "refresh": "refresh:Refresh",
    "store ls": "store_commands.snapshots:ListSnapshots",
    "store show": "store_commands.snapshots:ShowSnapshot",
    "store failures": "store_commands.snapshots:ListFailures",
    "store retry-failures": "store_commands.retry:RetryFailures",
    "store diff": "store_commands.snapshots:DiffSnapshots",
    "store tag": "store_commands.tags:TagSnapshot",
    "store promote": "store_commands.tags:PromoteSnapshot",
    "store rollback": "store_commands.tags:Rollback",
    "store export": "store_commands.export:ExportSnapshot",
    "store verify": "store_commands.upkeep:VerifyStore",
    "store vacuum": "store_commands.upkeep:VacuumStore",
    "store compact": "store_commands.upkeep:CompactStore",
    "store purge": "store_commands.purge:PurgeImages",
    "schedule airflow": "schedules.airflow:AirflowSchedule",
    "schedule cronjob": "schedules.cronjob:CronJobSchedule",
    "schedule cloud-scheduler": "schedules.cloud_scheduler:CloudSchedule",
    "workers": "workers:ServeWorkers",
    "demo": "demo:Demo",
}
"""The command line's commands: name -> module and class."""


def __getattr__(name: str) -> Any:
    for target in COMMANDS.values():
        module, _, owner = target.partition(":")
        if owner == name:
            return getattr(import_module(f"{__name__}.{module}"), owner)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
