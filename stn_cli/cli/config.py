"""stn config: show, check, schema."""

from typing import Annotated

import typer

from stn_cli.cli import options

config_app = typer.Typer(
    help="Show and check configurations.",
    epilog="Examples: `stn config show mnist/rts`, `stn config check my.yaml`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A config and settings.")
]


@config_app.command("show")
def show(arguments: Arguments = None, json: options.Json = False, debug: options.Debug = False) -> None:
    """Print the complete configuration that a config and settings come to.

    \b
    Examples:
      stn config show mnist/rts
      stn config show mnist/r train.recipe=paper
    """
    from stn_cli.cli.console import print_json
    from stn_cli.cli.train import split_arguments
    from stn_cli.config_files import dump_config, load_config

    config = load_config(*split_arguments(arguments or [], []))
    if json:
        print_json(config.model_dump(mode="json"))
    else:
        typer.echo(dump_config(config), nl=False)


@config_app.command("check")
def check(
    configs: Annotated[list[str], typer.Argument(metavar="CONFIG...", help="Config files or shipped names.")],
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check configs; every problem is printed with its file and line.

    \b
    Examples:
      stn config check my.yaml
      stn config check mnist/r mnist/rts
    """
    from stn_cli.cli.console import print_json
    from stn_cli.config_files import ConfigError, load_config
    from stn_cli.errors import UsageError

    problems: list[str] = []
    for name in configs:
        try:
            load_config(name)
        except UsageError as error:
            problems += str(error).splitlines()
        else:
            if not json:
                typer.echo(f"{name}: ok")
    if json:
        print_json({"configs": configs, "problems": problems})
    if problems:
        raise ConfigError(problems)


@config_app.command("schema")
def schema(json: options.Json = False, debug: options.Debug = False) -> None:
    """Print the JSON schema of a config, so that an editor completes and checks the YAML.

    \b
    Examples:
      stn config schema > stn.schema.json
      then, at the top of the YAML: # yaml-language-server: $schema=stn.schema.json
    """
    from stn_cli.cli.console import print_json
    from stn_cli.config import RunConfig

    print_json(RunConfig.model_json_schema())  # with or without --json: it is JSON
