"""The fallback ladder: the fewest products left float that bring an int8 model back.

Each product's share of the error is what giving it back to float alone takes away from that of the whole int8 model.
Products are given back in the order of that share per weight, since the weights are what a float product costs in bytes
and, nearly, in time; each prefix of that order is a rung. Then a product that was needed early and is not any more is
put back into integers.

Reverting one product at a time sees what interacts: a product that looks bad alone may matter little among others. A
trial loop over configurations given beforehand (neural-compressor's) would need them in the right order already, or all
subsets (docs/adr/0011-fallback-ladder.md).

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
        Products whose reversion helps at all, the most profitable first.
    """
    gains = {name: whole.logit_rmse**2 - trial.logit_rmse**2 for name, trial in alone.items()}
    helping = [name for name, gain in gains.items() if gain > 0]
    return sorted(helping, key=lambda name: (-gains[name] / weights[name], name))


def climb(attempt: Try, ordered: Sequence[str], enough: float) -> list[Trial]:
    """Gives products back to float one after the other until the score is enough.

    Args:
        attempt: measures a set of float products.
        ordered: products, the most profitable first.
        enough: score on dev from which no further product is needed.

    Returns:
        The rungs, each with one float product more than the one before; the last may have fewer, where a product that
        was given back early turned out not to be needed. Empty where there is no product to give back.
    """
    rungs: list[Trial] = []
    for count in range(1, len(ordered) + 1):
        rungs.append(attempt(ordered[:count]))
        if rungs[-1].score >= enough:
            break
    if not rungs or rungs[-1].score < enough:
        return rungs
    kept = list(rungs[-1].keep_float)
    for name in rungs[-1].keep_float[:-1]:
        without = [other for other in kept if other != name]
        trial = attempt(without)
        if trial.score >= enough:
            kept = without
            rungs.append(trial)
    return rungs
