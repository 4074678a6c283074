"""Plans side by side: a worker each, on all cores.

Invariant: a plan gives in a worker what it gives alone; the answers are JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial

from gossipnode.cli.process import raise_on_signals
from gossipnode.cli.simulate.drive import EventsRun
from gossipnode.cli.simulate.matrix import MatrixRun
from gossipnode.cli.simulate.plan import Plan, Run, Show
from gossipnode.cli.simulate.progress import Progress
from gossipnode.cli.simulate.seeds import Answer, Interrupt, cores, side_by_side


def run_of(plan: Plan, show: Show) -> Run:
    """Return the run of a plan by its engine."""
    return MatrixRun(plan, show) if plan.engine == "matrix" else EventsRun(plan, show)


def run_all(plans: Sequence[Plan], labels: Sequence[str]) -> tuple[dict[int, Answer], bool]:
    """Simulate all plans; return their answers by place, and whether Ctrl-C cut that short.

    An answer has ``summary`` and ``distances``, or ``error`` and ``code``. ``labels`` stand before
    the lines of progress. A plan that had not begun when Ctrl-C came has no answer.
    """
    raise_on_signals()  # no worker is left
    jobs = [partial(_simulated, *one) for one in zip(plans, labels, strict=True)]
    with Interrupt() as interrupt, closing(side_by_side(jobs, cores(), interrupt)) as answers:
        found = dict(answers)
    return found, interrupt.came


def _simulated(plan: Plan, label: str) -> Answer:
    """Simulate one of several, in a worker."""
    plan.out.mkdir(parents=True, exist_ok=True)
    progress = Progress(label)
    simulation = run_of(plan, progress.show)
    summary = simulation.run(progress.close)
    return {"summary": summary, "distances": simulation.distances}
