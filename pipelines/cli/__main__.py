"""Run the command line as `python -m pipelines.cli`, without the installed script."""

from pipelines.cli.main import main

main()
