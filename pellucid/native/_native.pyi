from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_View = tuple[int, int, int, int, int]
_Floats = npt.NDArray[np.float32]
_Int32 = npt.NDArray[np.int32]

def available_isas() -> list[str]: ...
def kv_head_nbytes(kind: int, columns: int, /) -> int: ...
def measure_read(threads: int, cores: int, nbytes: int, passes: int) -> float: ...
def measure_arithmetic(isa: str, threads: int, cores: int, integers: bool, passes: int) -> float: ...

class SamplerSettings:
    seed: int
    index: int
    stages: list[int]
    allowed: list[int]
    end_token_ids: list[int]
    min_tokens: int
    bad_words: list[list[int]]
    no_repeat_ngram_size: int
    bias_ids: list[int]
    bias: list[float]
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    repeat_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    temperature: float
    lowest_temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    typical_p: float
    top_p: float
    min_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    mirostat_tau: float
    mirostat_eta: float
    def __init__(self) -> None: ...

class Sampler:
    def __init__(self, settings: SamplerSettings, /) -> None: ...
    def add_prompt(self, tokens: _Int32, breaks: npt.NDArray[np.uint8], /) -> None: ...
    def accept(self, token: int, breaks: bool, surprise: float, /) -> None: ...

def choose_rows(
    rows: list[tuple[Sampler, _Floats, _Floats | None, npt.NDArray[np.uint32] | None, int, int, int]],
    threads: int = 1,
    portable: bool = False,
) -> list[tuple[int, float, int, list[tuple[int, float, int]]]]: ...
def rank_rows(
    logits: _Floats, tokens: list[int], count: int, portable: bool = False
) -> list[list[tuple[int, float, int]]]: ...
def sampler_uniform(seed: int, index: int, position: int, /) -> tuple[float, float]: ...

class SentencePiece:
    duplicate: int
    def __init__(
        self,
        pieces: list[str],
        scores: _Floats,
        kinds: npt.NDArray[np.uint8],
        unknown_id: int,
        adds_space: bool,
    ) -> None: ...
    def encode(self, text: str, /) -> list[int]: ...

class Program:
    weight_nbytes: int
    num_phases: int
    def __init__(
        self, isa: str, threads: int, cores: int, num_blocks: Sequence[int], kv_kind: int, rounding: int
    ) -> None: ...
    def add_matrix(self, type: int, n: int, k: int, /) -> int: ...
    def pack(self, parts: Sequence[tuple[int, int, npt.NDArray[np.uint8], bool]], /) -> list[int]: ...
    def start_profile(self) -> None: ...
    def profile(self) -> list[float]: ...
    def add_cache(self, group: int, num_kv_heads: int, head_size: int, /) -> int: ...
    def set_arena(self, token_columns: int, row_columns: int, hidden_columns: int, /) -> None: ...
    def rope_table(self, inv_freq: _Floats, scale: float, /) -> int: ...
    def embed(self, weight: int, by_position: bool, scale: float, out: _View, /) -> None: ...
    def linear(
        self,
        x: _View,
        matrices: Sequence[int],
        biases: Sequence[_Floats | None],
        norm: int,
        norm_weight: _Floats | None,
        norm_bias: _Floats | None,
        eps: float,
        residual: _View | None,
        out: _View,
    ) -> None: ...
    def norm(self, x: _View, kind: int, weight: _Floats, bias: _Floats | None, eps: float, out: _View) -> None: ...
    def rope(self, x: _View, table: int, head_size: int, interleaved: bool, out: _View, /) -> None: ...
    def attention(
        self,
        q: _View,
        k: _View,
        v: _View,
        cache: int,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        window: int,
        scale: float,
        softcap: float,
        out: _View,
    ) -> None: ...
    def glu(self, gate: _View, up: _View, act: int, out: _View, /) -> None: ...
    def act(self, x: _View, act: int, out: _View, /) -> None: ...
    def add(self, a: _View, b: _View, out: _View, /) -> None: ...
    def softcap(self, x: _View, cap: float, out: _View, /) -> None: ...
    def select(self, x: _View, out: _View, /) -> None: ...
    def copy(self, x: _View, out: _View, /) -> None: ...
    def copy_blocks(self, copies: _Int32, /) -> None: ...
    def run(
        self,
        token_ids: _Int32,
        positions: _Int32,
        slot_mapping: npt.NDArray[np.int64],
        block_tables: _Int32,
        query_start: _Int32,
        seq_lens: _Int32,
        logit_rows: _Int32,
        hidden_rows: _Int32,
        outputs: Sequence[_Floats],
    ) -> None: ...
