"""Archives of inspect_ai with as many samples as wanted: copies of a real one, packed as inspect_ai
packs them."""

from __future__ import annotations

import json
import random
import zipfile
import zlib
from pathlib import Path

import pyarrow
from other_logs import log_of, members_of

from runner_compare.readers.archive import ZSTD

WORDS = ["sum", "ball", "card", "box", "shop", "day", "tree", "coin", "hour", "page"]


def large_archive(path: Path, samples: int, *, seed: int = 0, extra_bytes: int = 0) -> Path:
    """Write a log of so many samples; `extra_bytes` of conversation are added to each, as agents
    have it."""
    members = members_of(log_of("none"))
    header = members.pop("header.json")
    templates = list(members.values())
    rng, codec = random.Random(seed), pyarrow.Codec("zstd")
    right = 0
    with zipfile.ZipFile(path, "w") as archive:
        contents: dict[str, bytes] = {}

        def add(name: str, content: object) -> None:
            """Store it packed; Python's own module writes the place, and `contents` what the
            directory has to say."""
            contents[name] = json.dumps(content).encode()
            archive.writestr(name, codec.compress(contents[name], asbytes=True))
            info = archive.infolist()[-1]
            info.compress_type, info.file_size, info.CRC = (
                ZSTD,
                len(contents[name]),
                zlib.crc32(contents.pop(name)),
            )

        for number in range(samples):
            is_right = rng.random() < 0.8
            right += is_right
            sample = templates[number % len(templates)] | {"id": f"sample-{number}"}
            sample["input"] = f"{sample['input']} Case {number}."
            sample["scores"] = {"match": sample["scores"]["match"] | {"value": "C" if is_right else "I"}}
            if extra_bytes:
                sample["store"] = " ".join(rng.choices(WORDS, k=extra_bytes // 5))
            add(f"samples/sample-{number}_epoch_1.json", sample)
        header["eval"]["dataset"] |= {
            "samples": samples,
            "sample_ids": [f"sample-{at}" for at in range(samples)],
        }
        header["results"] |= {"total_samples": samples, "completed_samples": samples}
        scores = header["results"]["scores"][:1]
        scores[0]["metrics"]["accuracy"]["value"] = right / samples
        header["results"]["scores"] = scores
        add("header.json", header)
    return path
