"""Run other optimisers on the same problems: pymoo's NSGA-II with integer or categorical operators, and Optuna's TPE.

Only distinct candidates count as evaluations; a repeated proposal is answered from a table. An optimiser that proposes
nothing new for a long time is stopped.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from search_problems import Problem

from search_spaces import Candidate
from search_spaces.arrays import FloatArray, IntArray

_PATIENCE = 100
_POPULATION = 50


class Measured:
    """Evaluates candidates and records the distinct ones in order."""

    def __init__(self, problem: Problem, budget: int) -> None:
        self._problem, self._budget = problem, budget
        self._values: dict[bytes, FloatArray] = {}
        self._rows: list[IntArray] = []
        self._idle = 0

    def __call__(self, rows: IntArray) -> FloatArray:
        """Values (n, m) of encoded rows (n, k)."""
        canonical = self._problem.space.canonical(rows)
        keys = [row.tobytes() for row in canonical]
        before = len(self._values)
        for key, row, values in zip(keys, canonical, self._problem.values(canonical), strict=True):
            if key not in self._values:
                self._values[key] = values
                self._rows.append(row)
        self._idle = 0 if len(self._values) > before else self._idle + 1
        return np.array([self._values[key] for key in keys])

    @property
    def ended(self) -> bool:
        return len(self._values) >= self._budget or self._idle >= _PATIENCE

    @property
    def candidates(self) -> list[Candidate]:
        return self._problem.space.decode(np.array(self._rows[: self._budget]))


def pymoo_nsga2(problem: Problem, budget: int, seed: int, categorical: bool) -> list[Candidate]:
    """NSGA-II with population 50.

    Operators: SBX (0.9, eta 15) and polynomial mutation (eta 20) with rounding, or, for categorical variables, uniform
    crossover (0.9) and genes drawn anew with probability 1/d.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem as Task
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.problems.static import StaticProblem

    counts = problem.space.option_counts

    class Reset(Mutation):  # type: ignore[misc]
        def _do(self, task: Any, x: IntArray, *, random_state: Any = None, **_: Any) -> IntArray:
            fresh = random_state.integers(0, counts, size=x.shape)
            return np.where(random_state.random(x.shape) < 1 / len(counts), fresh, x)

    measured = Measured(problem, budget)
    task = Task(n_var=len(counts), n_obj=len(problem.objectives), xl=0, xu=counts - 1, vtype=int)
    rounding = {"vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(
        pop_size=_POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=UX(prob=0.9) if categorical else SBX(prob=0.9, eta=15, **rounding),
        mutation=Reset() if categorical else PM(eta=20, **rounding),
    )
    algorithm.setup(task, termination=("n_gen", 10**6), seed=seed)
    while not measured.ended:
        proposed = algorithm.ask()
        if proposed is None or len(proposed) == 0:
            break
        known = StaticProblem(task, F=measured(proposed.get("X").astype(np.int64)))
        algorithm.evaluator.eval(known, proposed)
        algorithm.tell(infills=proposed)
    return measured.candidates


def optuna_tpe(problem: Problem, budget: int, seed: int) -> list[Candidate]:
    """Optuna's `TPESampler` with its default settings on integer variables."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    measured = Measured(problem, budget)
    study = optuna.create_study(
        directions=["minimize"] * len(problem.objectives), sampler=optuna.samplers.TPESampler(seed=seed)
    )
    names = [choice.name for choice in problem.space.choices]
    while not measured.ended:
        trial = study.ask()
        pairs = zip(names, problem.space.option_counts.tolist(), strict=True)
        row = np.array([[trial.suggest_int(name, 0, count - 1) for name, count in pairs]])
        study.tell(trial, measured(row)[0].tolist())
    return measured.candidates


PEERS: dict[str, Callable[[Problem, int, int], list[Candidate]]] = {
    "pymoo-nsga2-integer": lambda problem, budget, seed: pymoo_nsga2(problem, budget, seed, False),
    "pymoo-nsga2-categorical": lambda problem, budget, seed: pymoo_nsga2(problem, budget, seed, True),
    "optuna-tpe": optuna_tpe,
}
