"""Which keys of the engine's groups count in a job's id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.config.resolved import base_model_key, resolve_job
from runner.config.root import RunnerConfig, iterate_job_id_keys
from runner.run import read_inputs_and_identify_job
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Nf4Config
from runner_engine.quantization.gguf import GgufConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import SHORT_NAMES
from runner_engine.settings.model import LocalConfig, LocalModelConfig

Make = Callable[..., RunnerConfig]


def test_ids_without_the_keys_are_the_old_ones_and_mixes_have_their_own(make_config: Make) -> None:
    local = LocalConfig(name="nowhere")

    def of(quantization: QuantizationConfig) -> RunnerConfig:
        return make_config(model=local, quantization=quantization)

    plain = dict(iterate_job_id_keys(of(Nf4Config())))
    assert not [key for key in plain if "skip" in key or "overrides" in key]
    mixes = [Nf4Config(skip=["mlp"]), Nf4Config(skip=["lm_head"]), Nf4Config(overrides={"mlp": "int8"})]
    configs = [of(it) for it in (Nf4Config(), *mixes)]
    assert (
        len({str(sorted(iterate_job_id_keys(it), key=str)) for it in configs})
        == len({*map(base_model_key, configs)})
        == 4
    )
    assert repr(Nf4Config()) == "Nf4Config(double_quant=True, compute_dtype=<Dtype.bfloat16: 'bfloat16'>)"


def test_rows_of_gguf_in_8_bits_count(make_config: Make) -> None:
    model = LocalConfig(name="nowhere.gguf")
    plain, in_bytes = (
        dict(iterate_job_id_keys(make_config(model=model, quantization=GgufConfig(int8_activations=rows))))
        for rows in (False, True)
    )
    assert {key for key in in_bytes if plain.get(key) != in_bytes[key]} == {"quantization.int8_rows"}


def test_only_other_formats_count_in_a_jobs_id(make_config: Make) -> None:
    keys = {
        name: dict(iterate_job_id_keys(make_config(generation=GenerationConfig(kv_cache=name))))
        for name in SHORT_NAMES
    }
    assert "generation.kv_cache" not in keys.pop("as_model")
    assert {name: found["generation.kv_cache"] for name, found in keys.items()} == {
        name: name for name in keys
    }


def test_a_local_folder_is_the_same_job_as_under_auto(
    make_config: Make, saved_family: Callable[..., Path]
) -> None:
    folder = str(saved_family())
    ids = set()
    for model in (LocalConfig(name=folder), LocalModelConfig(name=folder)):
        config = make_config(model=model)
        _, job = read_inputs_and_identify_job(resolve_job(config))
        ids.add(job.job_id)
    assert len(ids) == 1
