"""Commands that look at a model before it is built: lint and calibrate."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import edgekit
from edgekit.shell import columns_of, console, json_option, plain, print_json


@click.command("lint", epilog="Example: edgekit lint my-model --target x86-64 --data my-data")
@click.argument("model")
@click.option("--target", required=True, metavar="NAME", help="Target profile, or a .toml file.")
@click.option("--task", default="text-classification", show_default=True, metavar="NAME", help="Task.")
@click.option("--data", metavar="DIR|FILE", help="Labelled data to run; without it the weights alone are looked at.")
@click.option("--rows", type=int, metavar="N", help="Training rows to run; default 64.")
@click.option("--set", "settings", multiple=True, metavar="data.ROLE=COLUMN", help="Column of text or label.")
@click.option("--allow-download", is_flag=True, help="Let a hub id be fetched from the hub.")
@click.option("--strict", is_flag=True, help="Exit with 3 where anything is found that costs something.")
@json_option
def lint(
    model: str,
    target: str,
    task: str,
    data: str | None,
    rows: int | None,
    settings: tuple[str, ...],
    allow_download: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Say what int8 will cost in MODEL, a checkpoint or a model file, and which option cures it.

    Exit code: 0, also where something is found; with --strict 3 then; 2 the input is wrong.
    """
    from edgekit.linting import is_graph
    from edgekit.quant.findings import NO_COST
    from edgekit.report import terminal

    found = edgekit.lint(
        model,
        target=target,
        task=task,
        data=data,
        rows=rows,
        columns=columns_of(settings, "lint"),
        allow_download=allow_download,
    )
    if as_json:
        print_json([plain(finding) for finding in found])
    else:
        console().print(terminal.findings(found))
    if data is None and not is_graph(model):
        click.echo("note: the weights alone were looked at; with --data rows are run, which shows more", err=True)
    if strict and any(finding.cost != NO_COST for finding in found):
        sys.exit(3)


@click.command(
    "calibrate", epilog="Example: edgekit calibrate my-model --data my-data --target arm64 --out ranges.json"
)
@click.argument("model")
@click.option("--data", metavar="DIR|FILE", help="Labelled data; needed for a model.")
@click.option("--task", metavar="NAME", help="Task; default text-classification.")
@click.option("--target", "targets", multiple=True, metavar="NAME", help="Target profile, or a .toml file; one.")
@click.option("--policy", metavar="NAME", help="Calibration policy, or a .toml file.")
@click.option("--rows", type=int, metavar="N", help="Rows to draw, in place of the policy's number.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the ranges to this file.")
@click.option("--diff", type=click.Path(path_type=Path), metavar="FILE", help="Show what differs from these ranges.")
@click.option("--set", "settings", multiple=True, metavar="STAGE.OPTION=VALUE", help="Option of a stage; repeatable.")
@click.option("--seed", type=int, metavar="N", help="Seed of everything random; default 0.")
@click.option("--allow-download", is_flag=True, help="Let a hub id be fetched from the hub.")
@json_option
def calibrate(
    model: str,
    data: str | None,
    task: str | None,
    targets: tuple[str, ...],
    policy: str | None,
    rows: int | None,
    out: Path | None,
    diff: Path | None,
    settings: tuple[str, ...],
    seed: int | None,
    allow_download: bool,
    as_json: bool,
) -> None:
    """Take the ranges of a student's activations, as a build of MODEL would, and show them.

    MODEL may also be a file that --out wrote: then it is shown, or with --diff compared. A build takes such a file in
    place of its own calibration: edgekit build … --set calibrate.ranges=ranges.json

    Exit code: 0; 2 the input is wrong.
    """
    from edgekit.errors import RecipeError
    from edgekit.recipe import parse_settings
    from edgekit.report import terminal
    from edgekit.report.progress import Progress
    from edgekit.store import check_writable

    making = {
        "data": data,
        "target": targets or None,
        "task": task,
        "policy": policy,
        "rows": rows,
        "out": out,
        "set": settings or None,
        "seed": seed,
        "allow-download": allow_download or None,
    }
    before = edgekit.read_ranges(diff) if diff is not None else None  # a mistyped file must not cost a training
    if model.endswith(".json"):
        given = [f"--{name}" for name, value in making.items() if value is not None]
        if given:
            raise RecipeError(f"{model} is a file of ranges; {', '.join(given)}: only for making one")
        found = edgekit.read_ranges(model)
    else:
        if data is None:
            raise RecipeError("calibrate needs labelled data for a model: name it with --data")
        if len(targets) != 1:
            raise RecipeError("calibrate takes one target; name it with --target")
        options = parse_settings(settings)
        doubled = sorted(
            {"policy", "rows"} & {n for n, v in making.items() if v is not None} & {*options.get("calibrate", ())}
        )
        if doubled:
            raise RecipeError(f"--{doubled[0]} and --set calibrate.{doubled[0]} are both given; leave one out")
        if out is not None:
            check_writable(out, "ranges")
        with Progress() as observer:
            found = edgekit.calibrate(
                model,
                data,
                target=targets[0],
                task=task,
                policy=policy,
                rows=rows,
                options=options,
                seed=seed,
                allow_download=allow_download,
                observer=observer,
            )
        if out is not None:
            edgekit.write_ranges(out, found)
    if before is not None:
        differences = edgekit.diff_ranges(before, found)
        if before.graph_sha256 != found.graph_sha256:
            click.echo("note: the two files are of different graphs: other weights, not other rows alone", err=True)
        if as_json:
            print_json([plain(one) for one in differences])
        else:
            console().print(terminal.range_differences(differences))
    elif as_json:
        print_json(plain(found))
    else:
        console().print(terminal.ranges(found))
    if out is not None:
        click.echo(f"wrote {out}", err=True)
