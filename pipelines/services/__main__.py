"""`python -m pipelines.services up|down|status`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from features.errors import ElasticCtrError
from pipelines.services import control
from pipelines.services.environment import PASSWORDS, USER
from pipelines.tracking.pages import start_pages

Folder = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of databases and logs (default .run).")
]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="The embedded Airflow, MLflow and Spark server.",
)


Login = Annotated[
    bool,
    typer.Option(
        "--login/--no-login",
        help="Whether Airflow asks for a password. Without one, every user of this machine is its "
        "administrator.",
    ),
]


@app.command()
def up(run_dir: Folder = None, login: Login = True) -> None:
    """Start the services, unless they are up."""
    folder = run_dir or control.default_folder()
    already = control.status(folder) is not None
    first = not (folder / "airflow" / PASSWORDS).exists()
    services = control.up(folder, login=login)
    _show(services, "already up" if already else "up")
    if login and first:
        typer.echo(f"  password {services.password} (shown this once)")


@app.command()
def down(run_dir: Folder = None) -> None:
    """Stop the services; data and logs are kept."""
    typer.echo(f"stopped ({control.down(run_dir or control.default_folder())} processes)")


@app.command()
def status(run_dir: Folder = None) -> None:
    """Show the addresses of the services; exit code 1 when they are not up."""
    services = control.status(run_dir or control.default_folder())
    if services is None:
        typer.echo("not up")
        raise typer.Exit(1)
    _show(services, "up")


def main() -> None:
    """Run the command line; a project error becomes one message and its exit code."""
    try:
        app()
    except ElasticCtrError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)


def _show(services: control.Services, state: str) -> None:
    typer.echo(f"{state}\n  Airflow  {services.airflow_url}")
    for address in start_pages(services.mlflow_url):
        typer.echo(f"  MLflow   {address}")
    if services.login:
        typer.echo(f"  login    {USER}, password in {services.passwords}")
    if services.spark_url:
        typer.echo(f"  Spark    {services.spark_url} (set -a; . {services.spark_environment})")
    typer.echo(f"  logs     {services.folder}/logs")


if __name__ == "__main__":
    main()
