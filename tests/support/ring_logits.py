"""One process of a pipeline that compares logits: MODEL PARTS [MODEL PARTS ...], one part per
process; rank 0 prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from stages import STEPS, greedy, left_padded, whole
from torch.distributed.rendezvous import rendezvous

import runner
from runner.options.parts.pipeline.machines import set_gloo_network_interface
from runner.options.parts.pipeline.ranks import ProcessRank, read_torchrun_rank
from runner.options.parts.pipeline.transport import Packet, PacketType, Transport


def compare(model: Path, parts: Path, rank: int, processes: int, transport: Transport) -> None:
    stage = runner.load_part(parts, rank, dtype="float32")
    cache = stage.new_cache()

    def first(values: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = stage(values, mask, positions, cache)
        if processes == 1:
            return output
        transport.send(Packet(PacketType.decode, 0, positions, output))
        answer = transport.receive().hidden
        assert answer is not None
        return answer

    if rank == 0:
        logits, tokens = greedy(first)
        expected, same = whole(model)
        delta = float((logits - expected).abs().max())
        line = {
            "model": model.name,
            "processes": processes,
            "delta": delta,
            "same_tokens": torch.equal(tokens, same),
        }
        print(json.dumps(line), flush=True)
        return
    _, mask, _ = left_padded()
    for _ in range(STEPS):
        packet = transport.receive()
        assert packet.hidden is not None
        output = stage(packet.hidden, mask, packet.numbers, cache)
        transport.send(Packet(PacketType.decode, 0, packet.numbers, output))
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    transport.flush()


def main() -> None:
    store, rank, processes = next(rendezvous("env://"))
    with set_gloo_network_interface(read_torchrun_rank() or ProcessRank(rank, processes, rank, processes)):
        dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    transport = Transport(rank, processes, torch.device("cpu"), is_gpu_to_gpu=False)
    torch.set_num_threads(1)
    paths = [Path(name) for name in sys.argv[1:]]
    for model, parts in zip(paths[::2], paths[1::2], strict=True):
        compare(model, parts, rank, processes, transport)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
