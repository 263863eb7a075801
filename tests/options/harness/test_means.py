"""lm-eval's figures that are computed again from the documents are those that lm-eval computes."""

from __future__ import annotations

import pytest
from lm_eval.api import metrics
from lm_eval_out import BY_AGGREGATION

from runner_compare.readers.lm_eval.means import AGGREGATIONS, COMPUTED, METRICS, recompute_metric


@pytest.mark.parametrize("aggregation", BY_AGGREGATION)
def test_a_figure_is_computed_as_lm_eval_computes_it(aggregation: str) -> None:
    values = BY_AGGREGATION[aggregation]
    assert recompute_metric(aggregation, values) == pytest.approx(
        getattr(metrics, aggregation)(values), rel=1e-12
    )
    assert set(COMPUTED) == set(BY_AGGREGATION)


def test_the_aggregations_that_a_task_need_not_name() -> None:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, METRIC_AGGREGATION_REGISTRY

    for metric, aggregation in AGGREGATIONS.items():
        assert METRIC_AGGREGATION_REGISTRY[metric].__name__ == aggregation
    for kind, names in METRICS.items():
        assert set(names) == set(DEFAULT_METRIC_REGISTRY[kind])
