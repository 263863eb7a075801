"""Extends Hydra's command line with the runner's help, completion and configs.

No class of Hydra's is changed, so `hydra.main` cannot be used: it creates its own Hydra object.
`run_hydra_command_line` does the same.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import (
    _run_app,
    create_automatic_config_search_path,
    detect_calling_file_or_module_from_task_function,
    detect_task_name,
    get_args_parser,
)
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime, validate_config_path
from hydra.errors import SearchPathException
from hydra.plugins.completion_plugin import CompletionPlugin
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from runner.config import data_sets
from runner.config.choices import CONF
from runner.config.deleted_groups import reject_deleted_groups
from runner.config.gguf_files import add_gguf_quantization_override
from runner.config.groups import GROUPS
from runner.config.hydra_folders import reject_unused_hydra_folders
from runner.config.hydra_versions import (
    IS_HYDRA_1_4,
    VERSION_BASE,
    build_parsed_overrides_kwargs,
    prepend_overrides_of_rerun_job,
)
from runner.config.missing_keys import compose_omitting_missing_keys
from runner.config.renamed_keys import rename_old_keys_in_overrides
from runner.config.root import RunnerConfig
from runner.config.sources import create_config_loader
from runner_base.plugins import find_plug_in_conf_folders


class RunnerHydra(Hydra):
    """Subclass of Hydra that composes the runner's configs. Parameters that only Hydra 1.4 has are
    passed on.
    """

    def get_mode(self, config_name: str | None, overrides: list[str], **of_hydra_1_4: Any) -> Any:
        """Return hydra.mode. The default config is not composed for this, unlike in Hydra 1.3.

        Only a study or an override can set the mode.
        """
        places = {source.provider: source.path for source in self.config_loader.get_search_path().get_path()}
        is_ours = config_name == "config" and places.get("main") == str(CONF) and "command-line" not in places
        if is_ours and not any("hydra" in override for override in overrides):
            return None  # its default
        return super().get_mode(config_name, overrides, **of_hydra_1_4)

    def compose_config(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *rest: bool, **keys: Any
    ) -> DictConfig:
        """Compose a config like Hydra, then copy the values of the chosen data set to the task."""

        overrides = rename_old_keys_in_overrides(overrides)
        reject_deleted_groups(overrides)
        given = overrides
        if run_mode is RunMode.RUN:  # of a grid, each job has its own
            overrides = add_gguf_quantization_override(overrides)

        def compose_overrides(used: list[str]) -> DictConfig:
            if used != given:
                keys.pop("parsed_overrides", None)  # of Hydra 1.4: all overrides in another form
            return super(RunnerHydra, self).compose_config(config_name, used, run_mode, *rest, **keys)

        composed = compose_omitting_missing_keys(compose_overrides, overrides, run_mode)
        if (
            run_mode is RunMode.RUN and OmegaConf.get_type(composed) is RunnerConfig
        ):  # of a grid, each job has its own
            data_sets.set_task_keys_from_data_set(composed)
        reject_unused_hydra_folders(overrides, composed)
        return composed

    def get_help(
        self,
        help_cfg: DictConfig,
        cfg: DictConfig,
        args_parser: ArgumentParser,
        resolve: bool,
        **of_hydra_1_4: Any,
    ) -> str:
        """Return Hydra's --help text with descriptions of the runner's keys."""
        if OmegaConf.get_type(cfg) is not RunnerConfig:  # for --hydra-help
            return super().get_help(help_cfg, cfg, args_parser, resolve, **of_hydra_1_4)
        from runner.config import help  # as the next ones, of one command only

        given = [override.lstrip("+~").partition("=")[0] for override in HydraConfig.get().overrides.task]
        choices = HydraConfig.get().runtime.choices
        groups = [
            group for group in (*GROUPS, "profile") if group in {key.partition(".")[0] for key in given}
        ]
        is_full = cfg.print.value == "full"
        if groups and not is_full:
            return help.describe_groups(cfg, choices, groups)
        template, _, after = str(help_cfg.template).partition("$CONFIG")
        if not is_full:
            template = template.partition("== Groups")[0]
        before = super().get_help(
            OmegaConf.create({"template": template}), DictConfig({}), args_parser, False
        )
        if not is_full:
            return f"{before}{help.format_help_overview(cfg, choices)}{after}"
        # listed beside task.data instead
        before = re.sub(rf"^{data_sets.GROUP}: .*\n", "", before, flags=re.MULTILINE)
        return f"{before}{help.describe_job_keys(cfg, choices)}{after}"

    def show_cfg(
        self, config_name: str | None, overrides: list[str], cfg_type: str, *rest: Any, **keys: Any
    ) -> None:
        """Print Hydra's --cfg output below a comment that lists the choice of each group."""
        with redirect_stdout(StringIO()) as shown:
            super().show_cfg(config_name, overrides, cfg_type, *rest, **keys)
        if cfg_type == "job" and shown.getvalue().startswith("model:\n"):  # the whole config, not one package
            choices = HydraConfig.get().runtime.choices
            print("#", *(f"{group}={choices[group]}" for group in (*GROUPS, "profile")))
        sys.stdout.write(shown.getvalue())

    @staticmethod
    def get_shell_to_plugin_map(config_loader: ConfigLoader) -> defaultdict[str, list[CompletionPlugin]]:
        """Return the completion plugins of each shell, extended by completion of config values."""
        from runner.config.completion import add_value_completion

        found = Hydra.get_shell_to_plugin_map(config_loader)
        for shell, plugins in found.items():
            found[shell] = [add_value_completion(plugin) for plugin in plugins]
        return found


def create_hydra(study_folder: str | None = None) -> RunnerHydra:
    """Return a Hydra object that composes the runner's configs, and the configs in a folder of studies."""
    search = create_search_path(str(CONF), None if study_folder is None else Path(study_folder).expanduser())
    # Hydra sets it: that of the program that uses this library stays
    name = str(JobRuntime.instance().get("name"))
    return RunnerHydra(name, create_config_loader(search))


def create_search_path(
    main_folder: str,
    study_folder: Path | None,
    calling_file_or_module: tuple[str | None, str | None] = (None, None),
) -> ConfigSearchPath:
    """Return Hydra's config search path, which contains built-in, plug-in and study configs.

    `calling_file_or_module` is the file or the module that a relative `main_folder` begins at.
    """
    search = create_automatic_config_search_path(*calling_file_or_module, main_folder)
    before_schemas = SearchPathQuery(provider="schema")
    for package, folder in find_plug_in_conf_folders().items():
        search.prepend(package, f"file://{folder}", before_schemas)
    if study_folder is not None:
        search.prepend("command-line", f"file://{study_folder.absolute()}", before_schemas)
    return search


def run_hydra_command_line(task_function: TaskFunction) -> None:
    """Parse and run the command line like `hydra.main`, but raise errors instead of printing
    them.
    """
    parser = get_args_parser()
    arguments = parser.parse_args()
    if (
        arguments.experimental_rerun is not None and not IS_HYDRA_1_4
    ):  # of a pickled config: nothing is composed
        hydra.main(**VERSION_BASE)(task_function)()
        return
    saved = prepend_overrides_of_rerun_job(arguments)
    name = "config" if arguments.config_name is None else arguments.config_name
    main = str(CONF) if arguments.config_path is None else arguments.config_path
    validate_config_path(main)
    caller = detect_calling_file_or_module_from_task_function(task_function)
    folder = None if arguments.config_dir is None else Path(os.path.abspath(arguments.config_dir))
    if folder is not None and not folder.is_dir():
        raise SearchPathException(
            f"-cd {arguments.config_dir}: there is no folder {folder}. The studies of the documentation are in the "
            "repository, and pip install brings none: run the command in a clone"
        )
    if folder is not None and arguments.config_name is None:
        _require_study_name(arguments, folder)
    runner_hydra = RunnerHydra(
        detect_task_name(*caller), create_config_loader(create_search_path(main, folder, caller))
    )
    GlobalHydra.instance().initialize(runner_hydra)
    try:
        _run_requested_hydra_command(runner_hydra, arguments, parser, name, saved, task_function)
    finally:
        GlobalHydra.instance().clear()


def _require_study_name(arguments: Any, folder: Path) -> None:
    """Raise SearchPathException if `-cd` names a folder of studies but `-cn` names no study.

    A folder of choices has a folder for each group, and needs no `-cn`.
    """
    studies = sorted(path.stem for path in folder.glob("*.yaml"))
    asks_for_help = arguments.help or arguments.hydra_help or arguments.shell_completion
    has_groups = any(folder.glob("*/**/*.yaml"))
    if studies and "config" not in studies and not has_groups and not asks_for_help:
        raise SearchPathException(
            f"-cd {arguments.config_dir}: no study is named. Add -cn NAME: {', '.join(studies)}"
        )


def _run_requested_hydra_command(
    runner_hydra: RunnerHydra,
    arguments: Any,
    parser: ArgumentParser,
    name: str,
    rerun_overrides: list[str],
    task_function: TaskFunction,
) -> None:
    overrides = arguments.overrides
    commands = (arguments.run, arguments.multirun, arguments.shell_completion, arguments.cfg, arguments.info)
    asked = sum(command not in (None, False) for command in commands)
    parsed = (
        build_parsed_overrides_kwargs(runner_hydra, name, overrides, rerun_overrides)
        if rerun_overrides
        else {}
    )
    if arguments.help:
        runner_hydra.app_help(name, parser, arguments, **parsed)
    elif arguments.resolve and not arguments.cfg:
        raise ValueError("The --resolve flag can only be used in conjunction with --cfg or --help")
    elif arguments.hydra_help:
        runner_hydra.hydra_help(name, parser, arguments, **parsed)
    elif asked > 1:
        raise ValueError(
            "Only one of --run, --multirun, --cfg, --info and --shell_completion can be specified"
        )
    elif arguments.cfg:
        runner_hydra.show_cfg(name, overrides, arguments.cfg, arguments.package, arguments.resolve, **parsed)
    elif arguments.shell_completion:
        runner_hydra.shell_completion(name, overrides)
    elif arguments.info:
        runner_hydra.show_info(arguments.info, name, overrides, **parsed)
    else:
        parsed = build_parsed_overrides_kwargs(runner_hydra, name, overrides, rerun_overrides)
        mode = runner_hydra.get_mode(name, overrides, **parsed)
        is_run = not arguments.multirun
        _run_app(is_run, arguments.multirun, mode, runner_hydra, name, task_function, overrides, **parsed)
