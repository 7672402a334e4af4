"""``fdforce report``."""

import click

from fdforce.cli.options import command


@command("report", short_help="Write the HTML report of a run again.")
@click.argument("run_dir", metavar="RUN_DIR")
@click.option(
    "-o", "--output", metavar="FILE", help="File to write; RUN_DIR/report.html otherwise."
)
def report(run_dir, output):
    """Write the report of the run in RUN_DIR, one self-contained HTML file.

    The data files are not needed. `fdforce fit` writes the same report when it ends; of a run that
    was stopped or still goes on, the report shows what there is.

    \b
    Example:
      fdforce report runs/ethanol
      fdforce report runs/ethanol -o ethanol.html
    """
    from fdforce.report import write_report
    from fdforce.report.plots import has_matplotlib

    click.echo(write_report(run_dir, output))
    if not has_matplotlib():
        click.echo("without figures: they need matplotlib (pip install 'fdforce[plot]')")
