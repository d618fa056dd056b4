"""The command that takes what shapes of students cost on a target."""

from __future__ import annotations

from pathlib import Path

import click

import edgekit
from edgekit.shell import console, device_option, json_option, plain, print_json


@click.command("profile", epilog="Example: edgekit profile --target arm64 --hidden 384 --head-dim 32 --out costs.json")
@click.argument("model", required=False)
@click.option("--target", metavar="NAME", help="Target profile, or a .toml file.")
@device_option
@click.option("--hidden", type=int, metavar="N", help="Width of the teacher, in place of a MODEL.")
@click.option("--head-dim", type=int, metavar="N", help="Width of one of its attention heads.")
@click.option("--seed", type=int, metavar="N", help="Seed of the random models; default 0.")
@click.option(
    "--rounds",
    type=int,
    metavar="N",
    help="Blocks of each model where times are taken (default: 6).",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the table to this file.")
@json_option
def profile(
    model: str | None,
    target: str | None,
    device: str,
    hidden: int | None,
    head_dim: int | None,
    seed: int | None,
    rounds: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Take what shapes of students cost on a target, and show it.

    MODEL is a teacher, whose width is taken: costs go by shapes, so that one table serves every teacher of that width.
    It may also be a file that --out wrote: then it is shown.

    Exit code: 0 taken, 4 the device takes neither times nor counts, 2 the input is wrong, 5 the device is unreachable.
    """
    from edgekit.errors import RecipeError
    from edgekit.report import costs
    from edgekit.report.progress import Progress
    from edgekit.store import check_writable

    if model is not None and model.endswith(".json"):
        making: dict[str, object] = {"target": target, "device": device or None, "hidden": hidden, "head-dim": head_dim}
        making |= {"seed": seed, "rounds": rounds, "out": out}
        given = [f"--{name}" for name, value in making.items() if value is not None]
        if given:
            raise RecipeError(f"{model} is a table of costs; {', '.join(given)}: only for making one")
        table = edgekit.read_costs(model)
    else:
        if target is None:
            raise RecipeError("profile takes a target; name it with --target")
        if out is not None:
            check_writable(out, "costs")
        with Progress() as observer:
            table = edgekit.profile(
                target,
                model=model,
                hidden=hidden,
                head_dim=head_dim,
                device=device,
                seed=seed or 0,
                rounds=rounds,
                observer=observer,
            )
        if out is not None:
            edgekit.write_costs(out, table)
    if as_json:
        print_json(plain(table))
    else:
        console().print(costs.table(table))
    if out is not None:
        click.echo(f"wrote {out}", err=True)
