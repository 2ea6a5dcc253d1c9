r"""Many devices at once, trained outside the server: as many cores as there are.

    python3 -m pyml.workers.fleet retrain --jobs 4 --dsn "dbname=fleet"
    python3 -m pyml.workers.fleet retrain --backend dask --scheduler tcp://head:8786 \
        --replica "host=copy"

Workers train, the server hands out what is due and stores what comes back. Its locks hand
out the work, so that workers, sessions in psql and pg_cron can all be at it at once.
"""

import argparse
import importlib
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import psycopg
from joblib import Parallel, delayed, parallel_config

from pyml import queries
from pyml.errors import BrokenEnvironment, PymlError
from pyml.workers.database import LOST, at_home
from pyml.workers.job import Model, connection, disconnect, retrain_one

BACKENDS = ("loky", "dask", "spark")
# Outcomes after which a model is not tried again in the same call.
SETTLED = {"trained", "kept", "failed", "absent"}
# What is still due when a round has ended is begun again, unless that many rounds in a row
# have brought nothing; the pauses between them are 1, 2, 4, 8 and 16 seconds.
FRUITLESS = 6
# Seconds that workers may take to join a scheduler, and none of them to answer: joblib does not
# hear of a model that Dask has given up. What is only slow is stored all the same.
JOINING, SILENT = 30, 600

BAR = 30


def due(dsn: str) -> list[Model]:
    """What is due, the oldest first."""
    with at_home(connection(dsn)) as execute:
        return [(row["device"], row["kind"], row["field"]) for row in execute(queries.DUE)]


def _optional(module: str, package: str) -> Any:
    """A module that only one backend needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BrokenEnvironment(
            f"this backend needs {package}: {error}",
            detail="It has to be where this command runs and where the workers run.",
            hint=f"{sys.executable} -m pip install {package}",
        ) from error


@contextmanager
def workers(backend: str, jobs: int, scheduler: str | None) -> Iterator[Parallel]:
    """Workers of a backend of joblib.

    Parameters
    ----------
    backend : str
        'loky' (processes here), 'dask' or 'spark'.
    jobs : int
        How many; -1: as many as there are. Dask uses all that it has, and is waited for until
        it has so many: joblib would train here, if it were one.
    scheduler : str or None
        Address of Dask's scheduler, or Spark's master where its configuration names none.

    Raises
    ------
    BrokenEnvironment
        The backend's package is missing.
    """
    # One at a time: a model takes far longer than handing it out, and LSTMs longest.
    asked: dict[str, Any] = {"n_jobs": jobs, "batch_size": 1}
    one_by_one = {"return_as": "generator_unordered"}
    if backend == "dask":
        distributed = _optional("distributed", "distributed")
        with (
            distributed.Client(scheduler, set_as_default=False) as client,
            parallel_config("dask", client=client),
        ):
            with suppress(TimeoutError):
                client.wait_for_workers(max(jobs, 2), JOINING)
            yield Parallel(**asked, **one_by_one, timeout=SILENT)
    elif backend == "spark":
        _optional("joblibspark", "joblibspark pyspark").register_spark()
        builder = importlib.import_module("pyspark.sql").SparkSession.builder
        (builder.master(scheduler) if scheduler else builder).getOrCreate()
        with parallel_config("spark"):
            yield Parallel(**asked)
    else:
        with parallel_config(backend):
            yield Parallel(**asked, **one_by_one)


def _bar(done: int, total: int, failed: int, started: float) -> str:
    elapsed = time.monotonic() - started
    filled = BAR * done // max(total, 1)
    left = (total - done) * elapsed / done if done else 0.0
    return (
        f"\r[{'#' * filled}{'.' * (BAR - filled)}] {done}/{total}"
        f" {failed} failed, {done / max(elapsed, 1e-3):.1f}/s, {left:.0f} s left "
    )


def retrain(
    dsn: str, replica: str | None, over: Callable[[], AbstractContextManager[Parallel]]
) -> Counter[str]:
    """Train what is due; how often each outcome came.

    The table is the truth: where workers, their scheduler or a connection get lost, what is
    still due is begun again, and what was stored without a word is not.

    Parameters
    ----------
    dsn : str
        The primary.
    replica : str or None
        Where workers read the history instead.
    over : callable
        Gives workers anew.

    Raises
    ------
    PymlError, psycopg.Error
        What every model would meet.
    """
    outcomes: dict[Model, str] = {}
    said: set[str] = set()
    started = time.monotonic()

    def say(words: str) -> None:
        if words not in said:
            said.add(words)
            print(f"\r{words}", file=sys.stderr)

    def work(models: list[Model]) -> None:
        settled = sum(outcome in SETTLED for outcome in outcomes.values())
        failed = sum(outcome == "failed" for outcome in outcomes.values())
        outcomes.update(dict.fromkeys(models, "lost"))  # until they are heard of
        with over() as parallel:
            tasks = (delayed(retrain_one)(dsn, replica, *model) for model in models)
            for model, outcome, words in parallel(tasks):
                outcomes[model] = outcome
                settled += outcome in SETTLED
                failed += outcome == "failed"
                if words:
                    say(words)
                if sys.stderr.isatty():
                    bar = _bar(settled, len(outcomes), failed, started)
                    print(bar, end="", file=sys.stderr, flush=True)

    left, fruitless = due(dsn), 0
    while left and fruitless < FRUITLESS:
        if fruitless:
            time.sleep(2 ** (fruitless - 1))
        before = left
        try:
            work(left)
            left = due(dsn)
        except LOST as error:
            say(f"{error}".strip())
        except (PymlError, psycopg.Error):
            raise
        except Exception as error:  # whatever a backend says of workers that are gone
            say(f"{type(error).__name__}: {error}".splitlines()[0])
        left = [model for model in left if outcomes.get(model) not in SETTLED]
        fruitless = fruitless + 1 if left == before else 0
    if {"trained", "kept"} & {*outcomes.values()}:
        with at_home(connection(dsn)) as execute:
            execute(queries.POOL)
    failed = sum(outcome == "failed" for outcome in outcomes.values())
    bar = _bar(len(outcomes) - len(left), len(outcomes), failed, started)
    print(bar if outcomes else "", file=sys.stderr)  # also what was stored without a word is done
    for model, outcome in outcomes.items():
        if outcome == "lost" and model not in left:
            outcomes[model] = "passed over"  # it is done, by whomever
    return Counter(outcomes.values())


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python3 -m pyml.workers.fleet", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("retrain", help="train what is due")
    command.add_argument("--dsn", default="", help="the primary; libpq's PG* by default")
    command.add_argument("--replica", help="connection string of where to read the history")
    command.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    command.add_argument("--scheduler", help="Dask's, as tcp://host:8786; Spark's master")
    command.add_argument("--jobs", type=int, help="workers; by default, as many as there are cores")
    given = parser.parse_args()
    if given.backend == "dask" and not given.scheduler:
        parser.error("--backend dask needs --scheduler")
    # loky takes TensorFlow's memory for a leak, and puts another process in the worker's place.
    warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
    jobs = given.jobs or (os.cpu_count() or 1 if given.backend == "loky" else -1)
    over = partial(workers, given.backend, jobs, given.scheduler)
    try:
        outcomes = retrain(given.dsn, given.replica, over)
    except PymlError as error:
        sys.exit(f"{error.message}\nhint: {error.hint}")
    except psycopg.Error as error:
        sys.exit(str(error).strip())
    finally:
        disconnect()
    print(", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) or "nothing due")
    sys.exit(1 if outcomes["failed"] or outcomes["lost"] else 0)


if __name__ == "__main__":
    main()
