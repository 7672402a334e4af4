"""``fdforce search``."""

import click

from fdforce.cli.messages import print_json
from fdforce.cli.options import command, json_option, set_option
from fdforce.cli.termination import termination_as_interrupt

SHOWN = 20
"""Trials in the table."""


@command("search", short_help="Search for hyper-parameters by successive halving.")
@click.argument("config", required=False, metavar="[CONFIG.toml]")
@click.option("--out", metavar="DIR", help="Directory; runs/search-NAME-DATE by default.")
@click.option(
    "--processes", type=click.IntRange(min=1), default=1, help="Trials at a time; 1 by default."
)
@set_option
@json_option
@click.option("--resume", metavar="DIR", help="Go on where the search in this directory stopped.")
def search(config, out, processes, overrides, as_json, resume):
    """Search for the settings with the least validation error.

    CONFIG.toml is a configuration of `fdforce fit` with a table [search] besides. Many combinations
    of values are trained with a small budget, the best of them anew with a larger one, and so on.
    The result is a table of the trials, and a configuration for `fdforce fit`. Ctrl-C or a
    termination signal stops the search; --resume goes on from there.

    \b
    [search]
    trials = 27
    factor = 3             # a third goes on, with three times the budget
    budget = 300           # seconds of a trial of the last round, or budget_epochs
    objective = "force_rmse"
    [search.ranges]
    "optimizer.learning_rate" = { low = 1e-3, high = 3e-2, log = true }
    "model.hidden" = [[32, 32], [64, 32], [15, 15]]

    \b
    Example:
      fdforce search search.toml --out runs/search
      fdforce search --resume runs/search
      fdforce fit runs/search/best.toml
    """
    if bool(config) == bool(resume):
        raise click.UsageError("give either a CONFIG.toml or --resume DIR")
    if resume and (out or overrides):
        raise click.UsageError("--resume goes on with what the search has; leave --out, --set out")

    from fdforce.search import search

    with termination_as_interrupt():
        try:
            result = search(
                config, out=out, resume=resume, processes=processes, overrides=overrides,
                log=lambda line: click.echo(line, err=as_json),
            )  # fmt: skip
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the search was interrupted before its end") from None
    if as_json:
        print_json(
            {
                "directory": str(result.directory),
                "best_config": str(result.best_config),
                "best_model": str(result.best_model),
                "rounds": [vars(this) for this in result.rounds],
                "trials": result.trials,
            }
        )
        return
    click.echo(f"\n{_table(result.trials[:SHOWN])}")
    for row in result.trials[:SHOWN]:
        if row["failure"]:
            click.echo(f"trial {row['trial']:03} failed: {row['failure']}")
    click.echo(f"\nin {result.directory}: search.csv ({len(result.trials)} trials), best.toml")
    click.echo(f"best model: {result.best_model}")
    click.echo(f"\nnext:\n  fdforce fit {result.best_config}")


def _table(rows) -> str:
    names = [key.split(".")[1].rpartition("_") for key in rows[0]["values"]]
    above = ["", "", *(name[0] for name in names), "", "energy", "force", "", ""]
    head = ["rank", "trial", *(name[2] for name in names)]
    head += ["objective", "meV/atom", "meV/Å", "seconds", "round"]
    lines = [above, head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rows = ("  ".join(f"{c:>{w}}" for c, w in zip(line, widths)) for line in lines)
    return "\n".join(row.rstrip() for row in rows)


def _cells(row):
    return [
        str(row["rank"]),
        f"{row['trial']:03}",
        *(_number(value) if isinstance(value, float) else str(value)
          for value in row["values"].values()),
        "failed" if row["failure"] else _number(row["objective"]),
        _number(row["energy_rmse"], 1e3),
        _number(row["force_rmse"], 1e3),
        _number(row["seconds"]),
        str(row["round"]),
    ]  # fmt: skip


def _number(value, factor=1.0):
    return "-" if value is None else f"{factor * value:.4g}"
