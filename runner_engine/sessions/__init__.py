"""Interface of engines and sessions, which turn requests into events.

Each name is imported at first use: most of them need neither torch nor transformers, and
a few do.
"""

from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner_engine.sessions.arithmetic import BatchShape as BatchShape
    from runner_engine.sessions.arithmetic import HardwareRates as HardwareRates
    from runner_engine.sessions.arithmetic import ModelArithmetic as ModelArithmetic
    from runner_engine.sessions.base import Capability as Capability
    from runner_engine.sessions.base import Completion as Completion
    from runner_engine.sessions.base import Delta as Delta
    from runner_engine.sessions.base import EngineReport as EngineReport
    from runner_engine.sessions.base import Event as Event
    from runner_engine.sessions.base import Message as Message
    from runner_engine.sessions.base import MissingCapability as MissingCapability
    from runner_engine.sessions.base import NoChatTemplate as NoChatTemplate
    from runner_engine.sessions.base import OfferedTools as OfferedTools
    from runner_engine.sessions.base import PartialAnswers as PartialAnswers
    from runner_engine.sessions.base import Prompt as Prompt
    from runner_engine.sessions.base import Request as Request
    from runner_engine.sessions.base import RequestId as RequestId
    from runner_engine.sessions.base import check_scorable_prompt as check_scorable_prompt
    from runner_engine.sessions.base import prompt_sha256 as prompt_sha256
    from runner_engine.sessions.base import request_sha256 as request_sha256
    from runner_engine.sessions.base import require_capabilities as require_capabilities
    from runner_engine.sessions.chat_template import ChatTemplate as ChatTemplate
    from runner_engine.sessions.chat_template import check_template_values as check_template_values
    from runner_engine.sessions.contract import Engine as Engine
    from runner_engine.sessions.contract import complete_requests as complete_requests
    from runner_engine.sessions.contract import run_requests as run_requests
    from runner_engine.sessions.driver import Driver as Driver
    from runner_engine.sessions.scores import TokenScores as TokenScores
    from runner_engine.sessions.session import Listener as Listener
    from runner_engine.sessions.session import Session as Session
    from runner_engine.sessions.shortages import SequenceShortage as SequenceShortage
    from runner_engine.sessions.stats import EngineStats as EngineStats
    from runner_engine.sessions.stats import SequenceCount as SequenceCount
    from runner_engine.sessions.stats import add_counts as add_counts
    from runner_engine.sessions.thinking import MOST_OPENING as MOST_OPENING
    from runner_engine.sessions.thinking import MOST_PARTIAL as MOST_PARTIAL
    from runner_engine.sessions.thinking import ThinkingBudget as ThinkingBudget
    from runner_engine.sessions.thinking import ThinkingState as ThinkingState
    from runner_engine.sessions.thinking import ThinkingTracker as ThinkingTracker
    from runner_engine.sessions.thinking import encode_thinking_end as encode_thinking_end
    from runner_engine.sessions.thinking import find_thinking_tags as find_thinking_tags

PLACES = {
    # what is asked, and what comes back
    "Request": "base",  # one prompt to complete, or a continuation to score
    "RequestId": "base",  # the name of a request, which with the seed decides its random numbers
    "Prompt": "base",  # a text, a chat or token ids
    "Message": "base",  # one turn of a chat
    "OfferedTools": "base",  # the functions that a chat offers, before its turns
    "PartialAnswers": "base",  # the tokens of an answer that was interrupted
    "Event": "base",  # what a step returns: deltas and completions
    "Delta": "base",  # more text of a request
    "Completion": "base",  # the end of a request: its answer, tokens, times and log-probabilities
    "TokenScores": "scores",  # the log-probabilities of a continuation's tokens
    "request_sha256": "base",  # the hash of what a request asks
    "prompt_sha256": "base",  # the hash of a prompt
    # what an engine can do and has done
    "Capability": "base",  # what an engine may be able to do; known before a load
    "check_scorable_prompt": "base",  # rejects a chat whose template begins the thinking, where it is to be scored
    "MissingCapability": "base",  # raised where an engine cannot do what is asked
    "NoChatTemplate": "base",  # raised for a chat to a model without a template
    "EngineReport": "base",  # what was loaded: metrics, facts and notes
    "EngineStats": "stats",  # totals of an engine: tokens, seconds, memory
    "add_counts": "stats",  # sums of two lists of counts, or their differences
    "SequenceCount": "stats",  # the rows of one of several decoders, in these totals
    "ModelArithmetic": "arithmetic",  # a loaded model in numbers: what a token computes and reads
    "BatchShape": "arithmetic",  # a batch of rows: prompts of equal length, and new tokens
    "HardwareRates": "arithmetic",  # the highest rates of this machine: matrix products, reading memory
    "SequenceShortage": "shortages",  # fewer rows went along than were requested
    # engines and their sessions
    "Engine": "contract",  # a model that completes prompts: load, open, encode, decode, close
    "Session": "session",  # requests under way: any thread submits and cancels, one thread steps
    "Listener": "session",  # what is called with the events of some requests
    "Driver": "driver",  # a thread that steps a session, for servers
    "complete_requests": "contract",  # requests in, their completions out
    "run_requests": "contract",  # steps a session until its requests have ended
    "require_capabilities": "base",  # rejects what an engine cannot do
    # thinking and chats
    "ThinkingState": "thinking",  # where a row stands between thinking and answer
    "ThinkingTracker": "thinking",  # follows the thinking of rows, token by token
    "ThinkingBudget": "thinking",  # how long a row may think
    "find_thinking_tags": "thinking",  # the tags around thinking: of the config, and of the model
    "encode_thinking_end": "thinking",  # the tokens that end a thinking
    "MOST_OPENING": "thinking",  # tokens of an opening tag
    "MOST_PARTIAL": "thinking",  # tokens beyond a budget that may complete a character
    "ChatTemplate": "chat_template",  # a model's template, rendered within limits
    "check_template_values": "chat_template",  # the values that a template gets
}
__all__ = [*PLACES]

__getattr__ = create_lazy_getattr(__name__, PLACES)
