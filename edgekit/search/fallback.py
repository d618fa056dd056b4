"""Fallback to float: few products left float that bring an int8 model back.

Each product's share of the error is what giving it back to float alone takes away from that of the whole int8 model.
Products are given back in the order of that share per weight, since the weights are what a float product costs in bytes
and, nearly, in time. Errors interact: a product whose reversion alone makes things worse, because its error cancelled
another's, comes last, but it comes; and once the score is enough, each that was given back is tried in integers again.

A trial loop over configurations given beforehand (neural-compressor's) needs them in the right order already, or all
subsets (docs/adr/0011-candidates.md).

Ref: the greedy accuracy control of NNCF (docs of `quantize_with_accuracy_control`), here with costs and a step back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgekit.search.trials import Trial

Try = Callable[[Sequence[str]], Trial]
"""Makes and measures the int8 model with the given products left float."""


def order(whole: Trial, alone: Mapping[str, Trial], weights: Mapping[str, int]) -> list[str]:
    """Orders products by the squared error that giving each back to float takes away, per weight.

    Args:
        whole: all products in integers.
        alone: by product, with it alone left float.
        weights: how many each product has.

    Returns:
        All products, the most profitable first; those whose reversion alone does harm last.
    """
    gains = {name: whole.logit_rmse**2 - trial.logit_rmse**2 for name, trial in alone.items()}
    return sorted(gains, key=lambda name: (-gains[name] / weights[name], name))


def climb(attempt: Try, ordered: Sequence[str], enough: float) -> Trial:
    """Gives products back to float one after the other until the score is enough, then takes back what is not needed.

    Args:
        attempt: measures a set of float products.
        ordered: products, the most profitable first; at least one.
        enough: score on dev from which no further product is needed.

    Returns:
        The trial with the fewest float products that was found to be enough. Where none is, the best one.
    """
    rungs: list[Trial] = []
    for count in range(1, len(ordered) + 1):
        rungs.append(attempt(ordered[:count]))
        if rungs[-1].score >= enough:
            break
    if rungs[-1].score < enough:
        return max(rungs, key=lambda rung: (rung.score, -len(rung.keep_float)))
    found = rungs[-1]
    for name in rungs[-1].keep_float:
        fewer = [other for other in found.keep_float if other != name]
        without = attempt(fewer) if fewer else found
        if without.score >= enough:
            found = without
    return found
