"""Model class for lm-evaluation-harness. It sends lm-eval's requests to the runner's engine.

Truncation, initial tokens, windows of long texts and stop texts are as in lm-eval's own HF
model, so that scores are comparable. The engine batches the requests: all are submitted at
once, and shared prefixes of prompts are prefilled once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from tqdm import tqdm

from runner.config.resolved import resolve_job
from runner.engines import create_lazy_engine
from runner.engines.kinds import get_model_kind
from runner.library.load import build_load_config
from runner_base import ConfigError, JobFailed, format_unknown_choice_message
from runner_engine import Capability, Completion, Event, Request, Sampling, require_capabilities, run_requests
from runner_engine.models.load_tokenizer import load_tokenizer
from runner_engine.models.tokenization import encode_text
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import ChatTemplate
from runner_engine.settings.sampling import PARAMETERS

log = logging.getLogger(__name__)

# the groups that model_args may set, besides the model's
GROUPS = ("quantization", "lora", "rope", "generation")
# lm-eval always sets them, to 1 by default; the engine decides by memory
IGNORED = ("batch_size", "max_batch_size")
ANSWER_TOKENS = 256  # the limit of tasks that set none, as in lm-eval
SAMPLING_SETTINGS = (*PARAMETERS, "seed")  # the settings of generating that a task may have
OTHERS_KEYS = {  # keys of lm-eval's own models, and what takes their place here
    "gguf_file": "name the file itself, pretrained=FOLDER/FILE.gguf",
    "tokenizer": "a checkpoint or a .gguf file contains its own tokenizer. Omit this key",
    "base_url": (
        "the model runs in this process. Give pretrained=FILE.gguf, or use --model "
        "local-completions for a server"
    ),
}


class EngineModel(TemplateLM):  # type: ignore[misc] # lm_eval has no types
    """lm-eval's model `runner`, used as `--model runner --model_args
    pretrained=…,quantization=nf4,lora=…,rope=yarn,rope.factor=4`.
    """

    def __init__(
        self,
        pretrained: str = "embedded",
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = ANSWER_TOKENS,
        think_end_token: str | None = None,
        enable_thinking: bool | None = None,
        chat_template_args: Mapping[str, Any] | None = None,
        **keys: Any,
    ) -> None:
        super().__init__()
        if enable_thinking and think_end_token is None:
            raise ConfigError(
                "think_end_token is missing. Give the text that ends the thinking",
                key="enable_thinking",
                value="True",
                code="missing",
            )
        for key in OTHERS_KEYS.keys() & keys.keys():
            raise ConfigError(
                f"--model runner has no such key: {OTHERS_KEYS[key]}",
                key=key,
                value=keys[key],
                code="unknown_choice",
            )
        groups, own = split_lm_eval_model_args(
            {key: value for key, value in keys.items() if key not in IGNORED}
        )
        if str(own.get("device", "")).startswith("cuda") and not torch.cuda.is_available():
            del own["device"]  # lm-eval sets cuda:0 if no device is given
        config = build_load_config(pretrained, groups, own)
        self.resolved = resolve_job(config)
        get_model_kind(config.model).check_job(self.resolved)  # the load reports the same notes
        self.engine = create_lazy_engine(self.resolved)
        require_capabilities(
            self.engine.capabilities,
            "lm-eval",
            (Capability.token_ids, Capability.logprobs, Capability.tokenizer),
        )
        self.report = self.engine.load()
        for note in self.report.notes:
            log.warning("%s", render_engine_note(note))
        label, is_trusted = (
            f"model.name={self.resolved.model.files.model.name}",
            self.resolved.model.files.model.trust_remote_code,
        )
        self.tokenizer: Any = load_tokenizer(label, self.resolved.model.files.path, is_trusted)
        self.add_bos_token, self.think_end_token = add_bos_token, think_end_token
        self._prefix_token_id, self.max_gen_toks = prefix_token_id, max_gen_toks
        self.temperature = config.generation.temperature  # of tasks that set none
        self.max_length = int(max_length or self.report.metrics["max_positions"])
        self.enable_thinking = enable_thinking
        thinking = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        template_args = {**(chat_template_args or {}), **thinking}
        self.template = ChatTemplate(self.tokenizer, str(self.resolved.model.files.model.name), template_args)

    # ---------------------------------------------------------------------- properties of the model

    @property
    def eot_token_id(self) -> int:
        """Id of the end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Id of the token that starts a document without context: BOS, or EOS if the tokenizer has no BOS."""
        bos = self.tokenizer.bos_token_id
        chosen = bos if self._prefix_token_id is None else self._prefix_token_id
        return self.eot_token_id if chosen is None else int(chosen)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer. lm-eval uses the name in its cache keys."""
        return str(self.resolved.model.files.model.name).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        facts = {f"runner_{key}": value for key, value in self.report.facts.items()}
        return facts | {"model_num_parameters": int(self.report.metrics.get("parameters", -1))}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokenize a text. No BOS token is added if the text already starts with one."""
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            special = False
        return encode_text(
            self.tokenizer,
            string,
            True if special is None else special,
            str(self.resolved.model.files.model.name),
        )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.template.render(chat_history, continue_final_message=not add_generation_prompt)

    # --------------------------------------------------------------------------- lm-eval's requests

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate the answer to each prompt until one of the prompt's stop texts occurs."""
        own_requests, stops = [], []
        for number, (context, settings) in enumerate(request.args for request in requests):
            request, stop = self._build_generation_request(number, context, settings)
            own_requests.append(request)
            stops.append(stop)
        texts = []
        completions = self._run_requests(own_requests, "answers", disable_tqdm)
        for request, stop, completion in zip(requests, stops, completions, strict=True):
            # lm-eval, too, drops the blanks behind thinking: a stop text may be blank
            parts = completion.answer.parts
            text = parts.answer.lstrip() if parts.has_thinking else parts.answer
            text = postprocess_generated_text(text, stop, self.think_end_token)
            self.cache_hook.add_partial("generate_until", request.args, text)
            texts.append(text)
        return texts

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return each continuation's log-likelihood, and whether greedy decoding would produce the
        continuation.
        """
        if self.enable_thinking:
            tasks = sorted({request.task_name for request in requests if request.task_name})
            raise ConfigError(
                f"{', '.join(tasks)} scores given answers and generates no text. Omit this key",
                key="enable_thinking",
                value="True",
                code="unsupported",
            )
        scored: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scored

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each document. Long documents are scored in overlapping windows."""
        windows: list[tuple[tuple[str, str], list[int], list[int]]] = []
        counts = []
        for (text,) in (request.args for request in requests):
            rolled = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            of_text = [utils.make_disjoint_window(window) for window in rolled]
            windows += [(("", ""), list(before), list(after)) for before, after in of_text]
            counts.append(len(of_text))
        scores = iter(self._score_continuations(windows, disable_tqdm))
        sums = []
        for request, count in zip(requests, counts, strict=True):
            total = sum(next(scores)[0] for _ in range(count))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            sums.append(total)
        return sums

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-likelihood, and whether greedy decoding would produce the
        continuation.
        """
        scores = self._score_continuations(requests, disable_tqdm)
        for (texts, _before, _after), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return scores

    def _score_continuations(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        own_requests = []
        for number, (_, before, after) in enumerate(requests):
            # the last one is not read, only scored
            ids = (before + after)[-(self.max_length + 1) :]
            if len(ids) == len(after):
                raise ConfigError(
                    (
                        f"the continuation has {len(after)} tokens, so its prompt does not fit into "
                        f"the model's limit of {self.max_length} tokens"
                    ),
                    code="too_large",
                )
            own_requests.append(Request(number, tuple(ids[: -len(after)]), continuation=tuple(after)))
        completions = self._run_requests(own_requests, "log-likelihoods", disable_tqdm)
        return [(sum(completion.logprobs or ()), all(completion.greedy or ())) for completion in completions]

    def _build_generation_request(
        self, request_number: int, context: str, generation_settings: Mapping[str, Any]
    ) -> tuple[Request, list[str]]:
        """Return the engine request for generating an answer, and the stop texts of the prompt."""
        given: dict[str, Any] = dict(normalize_gen_kwargs(dict(generation_settings), self.max_gen_toks))
        stop = handle_stop_sequences(given.pop("until", None), eos=self.tokenizer.decode(self.eot_token_id))
        limit = given.pop("max_gen_toks")
        if given.pop("do_sample", False) is False:
            given["temperature"] = 0.0
        elif not (self.temperature if given.get("temperature") is None else given["temperature"]):
            raise ConfigError(
                "sampling needs a temperature above 0, such as --gen_kwargs temperature=0.7",
                key="do_sample",
                value="True",
                code="conflict",
            )
        if given.pop("num_beams", 1) != 1:
            raise ConfigError(
                "the engine has no beam search. Omit this key",
                key="num_beams",
                value=generation_settings["num_beams"],
                code="unsupported",
            )
        for key in given.keys() - {*SAMPLING_SETTINGS}:
            raise ConfigError(
                format_unknown_choice_message("setting of generating", key, SAMPLING_SETTINGS),
                key=key,
                value=given[key],
                code="unknown_choice",
            )
        room = self.max_length - limit
        if room <= 0:
            raise ConfigError(
                f"the prompt does not fit: the model's limit is {self.max_length} tokens",
                key="max_gen_toks",
                value=limit,
                code="too_large",
            )
        ids = tuple(self.tok_encode(context)[-room:])
        sampling = Sampling(**{key: value for key, value in given.items() if value is not None})
        # lm-eval cuts the text at all of them afterwards; an empty one would end every answer
        stops = tuple(text for text in stop if text)
        return Request(request_number, ids, stop=stops, max_new_tokens=limit, sampling=sampling), stop

    def _run_requests(
        self, requests: list[Request], description: str, is_quiet: bool
    ) -> Iterator[Completion]:
        completions: dict[Any, Completion] = {}
        with (
            tqdm(total=len(requests), desc=description, disable=is_quiet) as bar,
            self.engine.open() as session,
        ):

            def listen(events: list[Event]) -> None:
                for completion in (event for event in events if isinstance(event, Completion)):
                    if completion.error is not None:
                        raise JobFailed(f"request {completion.id}: {completion.error}", code="failed")
                    completions[completion.id] = completion
                    bar.update()

            run_requests(session, requests, listen)
        return (completions[request.id] for request in requests)


def split_lm_eval_model_args(model_args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split model arguments such as `rope=yarn, dtype=float32` into config group choices and keys of
    group `model`.
    """
    groups: dict[str, Any] = {group: model_args.get(group) for group in GROUPS}
    own: dict[str, Any] = {}
    for key, value in model_args.items():
        group, dot, name = key.partition(".")
        if dot and group == "model":
            own[name] = value
        elif dot and group in GROUPS:
            choice = groups[group]
            given = choice if isinstance(choice, dict) else {} if choice is None else {"name": choice}
            groups[group] = given | {name: value}
        elif key not in GROUPS:
            own[key] = value
    return groups, own
