"""What a prefill packet says of each row: how it is sampled, and its prompt.

The first process knows the requests, the last one samples: so each row's settings travel with its prompt. A packet
holds whole numbers only; a float travels as the 64 bits that it has in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner.engines.base import Sampling
from runner.engines.rows import Row
from runner.engines.sampling import Sampler, generator_of

SETTINGS = 6  # columns before the token ids: three floats, top-k, the seed of the random numbers, the prompt's length


def write_rows(rows: Sequence[Row], pad: int) -> torch.Tensor:
    """Return one line per row [B, SETTINGS + T]: its settings, then its prompt, padded on the left."""
    width = max(len(row.prompt) for row in rows)
    lines = []
    for row in rows:
        sampling = row.sampling
        floats = [sampling.temperature, sampling.top_p, sampling.repetition_penalty]
        generator = generator_of(sampling, row.request.id, row.choice)
        lines.append(
            [
                *torch.tensor(floats, dtype=torch.float64).view(torch.int64).tolist(),
                sampling.top_k,
                0 if generator is None else generator.initial_seed(),
                len(row.prompt),
                *[pad] * (width - len(row.prompt)),
                *row.prompt,
            ]
        )
    return torch.tensor(lines)


def token_ids(numbers: torch.Tensor) -> torch.Tensor:
    """Return the padded prompts [B, T]."""
    return numbers[:, SETTINGS:]


def token_mask(numbers: torch.Tensor) -> torch.Tensor:
    """Return which places hold tokens and which are padding [B, T]."""
    width = numbers.shape[1] - SETTINGS
    return (torch.arange(width)[None, :] >= width - numbers[:, SETTINGS - 1 : SETTINGS]).long()


def sampler_for(numbers: torch.Tensor, vocab_size: int, device: torch.device) -> Sampler:
    """Return the sampler that these rows ask for."""
    samplings, generators, prompts = [], [], []
    for line, floats in zip(numbers.tolist(), numbers[:, :3].contiguous().view(torch.float64).tolist(), strict=True):
        temperature, top_p, penalty = floats
        top_k, seed, length = line[3:SETTINGS]
        samplings.append(Sampling(temperature, top_p, top_k, penalty))
        generators.append(torch.Generator().manual_seed(seed) if temperature else None)
        prompts.append(line[len(line) - length :])
    sampler = Sampler(vocab_size, device)
    sampler.join(prompts, samplings, generators)
    return sampler
