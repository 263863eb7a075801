"""Policy of a release gate, from command-line options or from a YAML file with the tiers `must` and `should`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from runner_base import ConfigError, DataError, format_unknown_choice_message, os_errors_as_data_error
from runner_compare.features.gates.section import RequirementTerm, parse_requirements
from runner_compare.model.data import Run
from runner_compare.model.selection import parse_margins
from runner_compare.release_gate.verdicts import Policy, Rule, Tier
from runner_compare.statistics import RATIOS

SIGNS = {"min": ">=", "max": "<="}
POLICY_KEYS = (*Tier, "expect", "each")
RULE_KEYS = ("task", "margin", "pool", *SIGNS)


@dataclass(frozen=True)
class Limit:
    """Limit on a metric, as the user wrote it."""

    bound: str  # min or max
    text: str  # METRIC=VALUE
    key: str  # names the option or the key of the file in errors


@dataclass(frozen=True)
class PolicySource:
    """Policy whose limits are not checked yet, because the recorded metrics are not known."""

    policy: Policy
    limits: tuple[tuple[Limit, ...], ...]  # by rule

    def resolve_policy_limits(self, runs: Sequence[Run]) -> Policy:
        """Return the policy with its limits. Raises ConfigError for a metric that no run has."""
        rules = [
            replace(rule, limits=_parse_limits(limits, [run for run in runs if rule.task in ("", run.task)]))
            for rule, limits in zip(self.policy.rules, self.limits, strict=True)
        ]
        return replace(self.policy, rules=tuple(rules))


def read_release_gate_policy(options: argparse.Namespace) -> PolicySource:
    """Return the policy of --policy, or that of the other options."""
    if options.policy:
        for name in ("margin", "min", "max", "pool"):
            if getattr(options, name):
                raise ConfigError(
                    "--policy sets the requirements. Omit this option, or add it to the file",
                    key=f"--{name}",
                    code="conflict",
                )
        if isinstance(options.policy, Mapping):
            return _parse_policy(options.policy, "policy", options)
        path = Path(options.policy).expanduser()
        return _parse_policy(_read_policy_file(path), str(path), options)
    if not (options.margin or options.min or options.max):
        raise ConfigError(
            "no requirement is set. Set --margin LOSS (e.g. --margin 2 for 2 points of accuracy), --min, --max "
            "or --policy",
            code="missing",
        )
    limits = [Limit(bound, text, f"--{bound}") for bound in SIGNS for text in getattr(options, bound)]
    for limit in limits:
        key, equals, value = limit.text.partition("=")
        if not (key and equals and value):
            raise ConfigError("must be METRIC=VALUE", key=limit.key, value=limit.text, code="bad_value")
    rule = Rule(parse_margins(options.margin), margin_texts=tuple(options.margin), is_pooled=options.pool)
    _check_pooled_rule(rule, "--pool")
    policy = Policy((rule,), _parse_expected_candidate_names(options.expect), options.each)
    return PolicySource(policy, (tuple(limits),))


def _read_policy_file(path: Path) -> Any:
    with os_errors_as_data_error(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(
            f"not a YAML file ({' '.join(str(error).split())})", key=path, code="damaged"
        ) from error


def _parse_policy(policy: Any, source: str, options: argparse.Namespace) -> PolicySource:
    """Parse the content of a policy file. `source` names the file or the argument in errors."""
    content = _check_policy_keys(policy, POLICY_KEYS, source)
    rules: list[Rule] = []
    limits: list[tuple[Limit, ...]] = []
    for tier in Tier:
        entries = content.get(tier, [])
        for number, entry in enumerate([entries] if isinstance(entries, Mapping) else _as_list(entries), 1):
            where = f"{source}, {tier} rule {number}"
            values = _check_policy_keys(entry, RULE_KEYS, where)
            texts = tuple(str(margin) for margin in _as_list(values.get("margin")))
            margins = parse_margins(texts, where)
            rule_limits = tuple(
                Limit(bound, f"{metric}={value}", where)
                for bound in SIGNS
                for metric, value in _check_policy_keys(values.get(bound, {}), (), where).items()
            )
            if not margins and not rule_limits:
                raise ConfigError("the rule needs margin, min or max", key=where, code="missing")
            is_pooled = values.get("pool", False) is True
            rules.append(Rule(margins, (), tier, str(values.get("task", "")), texts, is_pooled))
            _check_pooled_rule(rules[-1], where)
            limits.append(rule_limits)
    if not any(rule.tier is Tier.must for rule in rules):
        raise ConfigError("no rule of the tier must is set", key=source, code="missing")
    expected = _parse_expected_candidate_names(options.expect) or tuple(
        map(str, _as_list(content.get("expect")))
    )
    is_each = options.each or content.get("each", False) is True
    return PolicySource(Policy(tuple(rules), expected, is_each), tuple(limits))


def _check_pooled_rule(rule: Rule, key: str) -> None:
    """Raise ConfigError if a pooled rule has no margin that tasks can share, or is for one task."""
    if rule.is_pooled and (rule.task or not rule.margins or RATIOS in rule.margins):
        raise ConfigError(
            "a pooled rule is for all tasks together, and needs a margin in points or nats. "
            "Omit task, and set margin",
            key=key,
            code="conflict",
        )


def _check_policy_keys(value: Any, known: Sequence[str], where: str) -> Mapping[str, Any]:
    """Return the value if it is a mapping whose keys are all known. Without known keys, all are allowed."""
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"must contain keys ({', '.join(known)})" if known else "min and max must map metrics to numbers",
            key=where,
            code="bad_value",
        )
    for key in value:
        if known and key not in known:
            raise ConfigError(
                format_unknown_choice_message("key", str(key), known), key=where, code="unknown_choice"
            )
    return value


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _parse_expected_candidate_names(text: str) -> tuple[str, ...]:
    """Parse --expect: names of candidates separated by commas, or a file with one name per line."""
    if not text:
        return ()
    path = Path(text).expanduser()
    parts = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else text.split(",")
    )
    labels = tuple(dict.fromkeys(label for part in parts if (label := part.strip())))
    if not labels:
        raise ConfigError("no candidate is named", key="--expect", value=text, code="empty")
    return labels


def _parse_limits(limits: Sequence[Limit], runs: list[Run]) -> tuple[RequirementTerm, ...]:
    """Parse limits to requirement terms. Raises ConfigError for an unknown metric."""
    metrics = sorted({key for run in runs for key in run.metrics if "/" not in key})
    terms: list[RequirementTerm] = []
    if not runs:  # no candidate has a result, which is the verdict
        return ()
    for limit in limits:
        try:
            terms += parse_requirements([limit.text.replace("=", SIGNS[limit.bound], 1)], runs)
        except ConfigError as error:
            key, reason = limit.text.partition("=")[0], error.reason
            if error.code == "unknown_choice":
                similar = [metric for metric in metrics if metric.startswith(key)]
                reason = format_unknown_choice_message("metric", key, similar or metrics)
            raise ConfigError(reason, key=limit.key, value=limit.text, code=error.code) from error
    return tuple(terms)
