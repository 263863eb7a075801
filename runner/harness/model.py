"""A model of lm-evaluation-harness: its three kinds of requests, answered by the engine.

What decides a result (where a text is cut, which tokens begin it, the windows of long texts, the words that end an
answer) is as in lm-eval's own HF model, so that scores can be compared with those. How requests are batched is the
engine's affair: all of them go in at once, and what prompts have in common is read once.
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

from runner.checkpoints.resolve import resolve
from runner.config.sampling import PARAMETERS, Sampling
from runner.core.errors import ConfigError, JobFailed, unknown
from runner.engines import open_engine
from runner.engines.base import Capability, Completion, Event, Request, gather, require
from runner.engines.chat_template import ChatTemplate
from runner.engines.kinds import kind_of
from runner.library.load import configure
from runner.models.load import load_tokenizer
from runner.models.tokenizing import ids_of

log = logging.getLogger(__name__)

GROUPS = ("quantization", "lora", "rope", "generation")  # beside the model
GIVEN_ALWAYS = ("batch_size", "max_batch_size")  # by lm-eval, with 1 as the default; the engine decides by memory
ANSWER_TOKENS = 256  # where a task does not say how many, as in lm-eval
DRAWN = (*PARAMETERS, "seed")  # of what a task may say of generating


class EngineModel(TemplateLM):  # type: ignore[misc] # lm_eval has no types
    """`--model runner --model_args pretrained=…,quantization=nf4,lora=…,rope=yarn,rope.factor=4`."""

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
            raise ConfigError("enable_thinking=True: needs think_end_token, which ends what is no part of the answer")
        groups, own = by_group({key: value for key, value in keys.items() if key not in GIVEN_ALWAYS})
        if str(own.get("device", "")).startswith("cuda") and not torch.cuda.is_available():
            del own["device"]  # lm-eval gives cuda:0 where nobody has named a device
        config = configure(pretrained, groups, own)
        self.resolved = resolve(config)
        kind_of(config.model).check(config, self.resolved)  # its notes come with the load's
        self.engine = open_engine(config, self.resolved)
        require(self.engine, "lm-eval", (Capability.token_ids, Capability.logprobs, Capability.tokenizer))
        self.report = self.engine.load()
        for note in self.report.notes:
            log.warning("%s", note)
        named, trusted = f"model.name={self.resolved.model.name}", self.resolved.model.trust_remote_code
        self.tokenizer: Any = load_tokenizer(named, self.resolved.path, trusted)
        self.add_bos_token, self.think_end_token = add_bos_token, think_end_token
        self._prefix_token_id, self.max_gen_toks = prefix_token_id, max_gen_toks
        self.temperature = config.generation.temperature  # where a task says none
        self.max_length = int(max_length or self.report.metrics["max_positions"])
        self.enable_thinking = enable_thinking
        thinking = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        given = {**(chat_template_args or {}), **thinking}
        self.template = ChatTemplate(self.tokenizer, str(self.resolved.model.name), given)

    # ------------------------------------------------------------------------------------------ what is known of it

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text with nothing before it."""
        of_tokenizer = self.tokenizer.bos_token_id
        chosen = of_tokenizer if self._prefix_token_id is None else self._prefix_token_id
        return self.eot_token_id if chosen is None else int(chosen)

    @property
    def tokenizer_name(self) -> str:
        """What a cache of requests is kept under."""
        return str(self.resolved.model.name).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results."""
        facts = {f"runner_{key}": value for key, value in self.report.facts.items()}
        return facts | {"model_num_parameters": int(self.report.metrics.get("parameters", -1))}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return a text's tokens; what begins a text is not put before one that begins with it."""
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            special = False
        return ids_of(self.tokenizer, string, True if special is None else special, str(self.resolved.model.name))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Put a conversation into the model's template, as a text."""
        return self.template.render(chat_history, continues=not add_generation_prompt)

    # -------------------------------------------------------------------------------------------- lm-eval's requests

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer each prompt until one of the words comes that end it."""
        asked, stops = [], []
        for number, (context, settings) in enumerate(request.args for request in requests):
            request, stop = self._generation(number, context, settings)
            asked.append(request)
            stops.append(stop)
        texts = []
        for request, stop, done in zip(requests, stops, self._done(asked, "answers", disable_tqdm), strict=True):
            text = postprocess_generated_text(done.text, stop, self.think_end_token)
            self.cache_hook.add_partial("generate_until", request.args, text)
            texts.append(text)
        return texts

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return of each continuation how likely it is, and whether the model would have said it."""
        if self.enable_thinking:
            tasks = sorted({request.task_name for request in requests if request.task_name})
            raise ConfigError(f"enable_thinking=True: {', '.join(tasks)} scores given answers, before any thinking")
        scored: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scored

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each text, in windows that share one token."""
        windows: list[tuple[tuple[str, str], list[int], list[int]]] = []
        counts = []
        for (text,) in (request.args for request in requests):
            rolled = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            some = [utils.make_disjoint_window(one) for one in rolled]
            windows += [(("", ""), list(before), list(scored)) for before, scored in some]
            counts.append(len(some))
        scored = iter(self._score(windows, disable_tqdm))
        sums = []
        for request, count in zip(requests, counts, strict=True):
            total = sum(next(scored)[0] for _ in range(count))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            sums.append(total)
        return sums

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return of each continuation how likely it is, and whether the model would have said it."""
        scored = self._score(requests, disable_tqdm)
        for (texts, _before, _after), one in zip(requests, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, one)
        return scored

    def _score(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        asked = []
        for number, (_, before, after) in enumerate(requests):
            ids = (before + after)[-(self.max_length + 1) :]  # the last one is not read, only scored
            if len(ids) == len(after):
                raise ConfigError(
                    f"a continuation of {len(after)} tokens leaves no room before it: the model has {self.max_length}"
                )
            asked.append(Request(number, tuple(ids[: -len(after)]), continuation=tuple(after)))
        done = self._done(asked, "log-likelihoods", disable_tqdm)
        return [(sum(one.logprobs or ()), all(one.greedy or ())) for one in done]

    def _generation(self, number: int, context: str, settings: Mapping[str, Any]) -> tuple[Request, list[str]]:
        """Return what to ask for, and the words that end it."""
        said: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), self.max_gen_toks))
        stop = handle_stop_sequences(said.pop("until", None), eos=self.tokenizer.decode(self.eot_token_id))
        most = said.pop("max_gen_toks")
        if said.pop("do_sample", False) is False:
            said["temperature"] = 0.0
        elif not (self.temperature if said.get("temperature") is None else said["temperature"]):
            raise ConfigError("do_sample=True: needs a temperature above 0, as in --gen_kwargs temperature=0.7")
        if said.pop("num_beams", 1) != 1:
            raise ConfigError(f"num_beams={settings['num_beams']}: the engine does not search by beams; leave it out")
        for key in said.keys() - {*DRAWN}:
            raise ConfigError(f"{key}={said[key]}: {unknown('setting of generating', key, DRAWN)}")
        room = self.max_length - most
        if room <= 0:
            raise ConfigError(f"max_gen_toks={most}: the model has {self.max_length} places, and its prompt needs some")
        ids = tuple(self.tok_encode(context)[-room:])
        sampling = Sampling(**{key: value for key, value in said.items() if value is not None})
        # text is cut at all of them afterwards, as lm-eval does; an empty one would end every answer
        stops = tuple(one for one in stop if one)
        return Request(number, ids, stop=stops, max_new_tokens=most, sampling=sampling), stop

    def _done(self, asked: list[Request], what: str, is_quiet: bool) -> Iterator[Completion]:
        """Yield what became of each request, in their order."""
        done: dict[Any, Completion] = {}
        with tqdm(total=len(asked), desc=what, disable=is_quiet) as bar, self.engine.open() as session:

            def listen(events: list[Event]) -> None:
                for completion in (event for event in events if isinstance(event, Completion)):
                    if completion.error is not None:
                        raise JobFailed(f"request {completion.id}: {completion.error}")
                    done[completion.id] = completion
                    bar.update()

            gather(session, asked, listen)
        return (done[request.id] for request in asked)


def by_group(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort `rope=yarn, rope.factor=4, dtype=float32` into choices of groups with their keys, and the model's keys."""
    groups: dict[str, Any] = {group: keys.get(group) for group in GROUPS}
    own: dict[str, Any] = {}
    for key, value in keys.items():
        group, dot, name = key.partition(".")
        if dot and group == "model":
            own[name] = value
        elif dot and group in GROUPS:
            chosen = groups[group]
            before = chosen if isinstance(chosen, dict) else {} if chosen is None else {"name": chosen}
            groups[group] = before | {name: value}
        elif key not in GROUPS:
            own[key] = value
    return groups, own
