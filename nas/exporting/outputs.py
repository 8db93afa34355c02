"""How an output of a network is read, in a sentence for a card."""

from functools import singledispatch

from nas.data.tasks import Classification, Regression, Task, TokenClassification


@singledispatch
def outputs(task: Task | None) -> str:
    """A sentence on how an output is read; empty where the task is not known."""
    return ""


@outputs.register
def _(task: Classification) -> str:
    return "A row is of the class of its largest logit."


@outputs.register
def _(task: TokenClassification) -> str:
    return "There are logits for every token; a word has the tag of the largest one at its first token."


@outputs.register
def _(task: Regression) -> str:
    return f"The number that is predicted is the output times {task.std:.9g} plus {task.mean:.9g}."
