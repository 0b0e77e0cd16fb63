"""What the user asks for: `SNPConfig`, saved beside every pruned model as `snp_config.json`."""

import json
import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from .checks import check_positive_integer, check_whole_number
from .file_names import CONFIG_NAME
from .presets import PRESETS
from .saved_fields import read_fields, read_json
from .version import __version__


logger = logging.getLogger(__name__)

METHODS = ("snp", "snp-refit", "projection")
# Those that solve for new weights, from second moments of the activations.
REFITTING_METHODS = ("snp-refit", "projection")
# In a saved config, beside the fields: what wrote it.
VERSION_KEY = "optimum_snp_version"
SINGULAR_WEIGHTINGS = ("uniform", "energy")
# The budgets, with what each counts.
BUDGETS = {"target_flops": "macs", "target_params": "parameters", "target_latency": "seconds"}
# The classes that a pruned model is saved in: those of this package, with their code, or those of transformers.
SNP_LAYOUT, NATIVE_LAYOUT = LAYOUTS = ("snp", "native")
LATENCY_BACKENDS = ("eager", "compile", "onnxruntime", "openvino")
SHARES = ("qk_sparsity", "v_sparsity", "mlp_sparsity", "hidden_sparsity")
# What can be said beside a budget: heads and blocks that go as a whole, and tokens that merge.
WHOLE_PARTS = ("head_sparsity", "dropped_blocks")
REMOVALS = (*WHOLE_PARTS, "token_sparsity")
# What these say where the budget is to choose.
AUTO = "auto"
_LATENCY_SETTINGS = ("latency_batch_size", "latency_backend", "latency_threads")
LARGEST_SEED = 2**32 - 1  # that NumPy takes
_MINIMUM_SIZES = ("minimum_qk_head_dim", "minimum_v_head_dim", "minimum_intermediate_size", "minimum_hidden_size")


@dataclass(kw_only=True)
class SNPConfig:
    """How a model is to be pruned.

    Shares are what is *removed*. A list has one share per block in execution order, or one list per stage of a Swin;
    that of `hidden_sparsity` one share per stage. A kept size is `size * (1 - share)` rounded half up, at least 1.

    Whole heads and blocks go first, with shares and with a budget, which counts them; all other shares are of what
    is left. With a budget, `"auto"` lets it choose how many heads every block keeps, and which blocks go. Lists count
    the blocks of the dense model, those that go included. Which heads go is SNP's choice for method `"snp"`; for the
    other two they are those that the rest makes up for best.

    The default method is `"projection"`: in the one-shot benchmark (docs/one-shot.md) it keeps far more accuracy
    without training than the paper's `"snp"`, at the same sizes and speed.

    Raises:
        TypeError: For an argument that is no field of this class.
        ValueError: For a value out of range; the message names the field and what is allowed.

    Example:

    ```python
    >>> from optimum_snp import SNPConfig

    >>> SNPConfig(qk_sparsity=0.5, mlp_sparsity=[0.2] * 6 + [0.6] * 6)
    >>> SNPConfig.from_preset("deit-small-2.0g")
    ```
    """

    qk_sparsity: float | list[float] | list[list[float]] = field(
        default=0.0, metadata={"help": "share of the query/key neurons of each head to remove, in [0, 1)"}
    )
    v_sparsity: float | list[float] | list[list[float]] = field(
        default=0.0, metadata={"help": "share of the value neurons of each head to remove, in [0, 1)"}
    )
    mlp_sparsity: float | list[float] | list[list[float]] = field(
        default=0.0, metadata={"help": "share of the MLP neurons to remove, in [0, 1)"}
    )
    hidden_sparsity: float | list[float] = field(
        default=0.0, metadata={"help": "share of the channels of the residual stream to remove, in [0, 1)"}
    )
    head_sparsity: float | list[float] | list[list[float]] | str = field(
        default=0.0,
        metadata={
            "help": "share of the attention heads of each block to remove, in [0, 1), or 'auto' for what a budget "
            "removes best"
        },
    )
    dropped_blocks: int | list[int] | str = field(
        default=0,
        metadata={
            "help": "how many blocks to remove whole, those that are missed least, a list of the blocks, "
            "counted from 0, or 'auto' for those that a budget removes best"
        },
    )
    token_sparsity: float | list[float] | str = field(
        default=0.0,
        metadata={
            "help": "share of the patches that are gone behind the last block, merged into others block by block, in "
            "[0, 1), a list with the share that each block merges, or 'auto' for what target_flops or target_latency "
            "spends best"
        },
    )
    target_flops: float | None = field(
        default=None,
        metadata={"help": "share of the multiply-accumulates that may remain, in (0, 1], instead of shares to remove"},
    )
    target_params: float | None = field(
        default=None,
        metadata={"help": "share of the parameters that may remain, in (0, 1], instead of shares to remove"},
    )
    target_latency: float | None = field(
        default=None,
        metadata={
            "help": "share of the time of a forward pass that may remain, in (0, 1], measured on this machine; "
            "instead of shares to remove"
        },
    )
    latency_batch_size: int = field(default=1, metadata={"help": "images per forward pass that is timed"})
    latency_backend: str = field(
        default="eager",
        metadata={"help": "what runs the model that is timed", "choices": LATENCY_BACKENDS},
    )
    latency_threads: int | None = field(
        default=None, metadata={"help": "threads of the CPU while timing (default: as many as PyTorch uses)"}
    )
    method: str = field(
        default="projection",
        metadata={
            "help": "'projection' keeps the leading directions instead of neurons, in closed form; 'snp' keeps "
            "neurons by SNP's scores as in the paper; 'snp-refit' keeps the same neurons and fits what reads them to "
            "the dense outputs by least squares",
            "choices": METHODS,
        },
    )
    reconstruction: bool | None = field(
        default=None,
        metadata={
            "help": "refit the pruned blocks in sequence, so that each makes up for what those before it lost, on the "
            "calibration images (default: yes for 'projection' and 'snp-refit' if images are at hand)"
        },
    )
    reconstruction_copies: int | None = field(
        default=None,
        metadata={
            "help": "shifted and mirrored copies of every calibration image that the reconstruction sees as well "
            "(default: as many as make about 256 images of fewer)"
        },
    )
    num_singular_directions: int | float | None = field(
        default=0.9,
        metadata={
            "help": "leading singular directions of the attention scores that query/key neurons are held against: a "
            "count, a share of the spectral energy in (0, 1], or none for all"
        },
    )
    singular_weighting: str = field(
        default="uniform",
        metadata={
            "help": "'uniform' counts all directions alike as in the paper, 'energy' by their singular value",
            "choices": SINGULAR_WEIGHTINGS,
        },
    )
    round_to: int | None = field(
        default=None,
        metadata={
            "help": "kept sizes are multiples of this (default: 1); within a budget they are where that costs little "
            "(default: 8)"
        },
    )
    minimum_qk_head_dim: int = field(default=1, metadata={"help": "least query/key size per head within a budget"})
    minimum_v_head_dim: int = field(default=1, metadata={"help": "least value size per head within a budget"})
    minimum_intermediate_size: int = field(default=1, metadata={"help": "least MLP size within a budget"})
    minimum_hidden_size: int = field(default=2, metadata={"help": "least width of a residual stream within a budget"})
    frozen_blocks: list[int] = field(
        default_factory=list,
        metadata={"help": "blocks that stay whole within a budget, heads included, counted from 0"},
    )
    frozen_parts: list[str] = field(
        default_factory=list,
        metadata={"help": "parts that a budget leaves alone", "choices": SHARES},
    )
    layout: str = field(
        default=SNP_LAYOUT,
        metadata={
            "help": "'snp' saves the model in classes of its own, whose code travels with it; 'native' as an ordinary "
            "checkpoint of transformers that needs no remote code, for which all blocks get one number of heads, one "
            "size of heads and one MLP size",
            "choices": LAYOUTS,
        },
    )
    num_calibration_samples: int = field(default=256, metadata={"help": "unlabelled images to calibrate on"})
    seed: int = field(default=42, metadata={"help": "seed of the choice of calibration images"})

    def __new__(cls, **options: Any) -> "SNPConfig":
        known = [option.name for option in fields(cls)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise TypeError(
                f"SNPConfig has no field {', '.join(map(repr, unknown))}. Its fields are {', '.join(known)}."
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("qk_sparsity", "v_sparsity", "mlp_sparsity", "head_sparsity"):
            if name == "head_sparsity" and self.head_sparsity == AUTO:
                continue
            setattr(self, name, _shares(name, getattr(self, name), nested=True))
        self.hidden_sparsity = _shares("hidden_sparsity", self.hidden_sparsity, nested=False)
        if self.token_sparsity != AUTO:
            self.token_sparsity = _shares("token_sparsity", self.token_sparsity, nested=False)
        _choice("method", self.method, METHODS)
        _choice("singular_weighting", self.singular_weighting, SINGULAR_WEIGHTINGS)
        _choice("layout", self.layout, LAYOUTS)
        if self.reconstruction not in (True, False, None):
            raise ValueError(f"reconstruction must be True, False or None, got {self.reconstruction!r}.")
        self._check_copies()
        self._check_budget()
        self._check_dropped_blocks()
        self._check_layout()
        _choice("latency_backend", self.latency_backend, LATENCY_BACKENDS)
        optional = [name for name in ("round_to", "latency_threads") if getattr(self, name) is not None]
        for name in ("num_calibration_samples", "latency_batch_size", *_MINIMUM_SIZES, *optional):
            check_positive_integer(name, getattr(self, name))
        check_whole_number("seed", self.seed)
        if self.seed > LARGEST_SEED:
            raise ValueError(f"seed must be at most {LARGEST_SEED}, got {self.seed!r}.")
        gamma = self.num_singular_directions
        if isinstance(gamma, float):
            if not 0 < gamma <= 1:
                raise ValueError(f"num_singular_directions as a share of the energy must be in (0, 1], got {gamma}.")
        elif gamma is not None:
            check_positive_integer("num_singular_directions", gamma)

    @property
    def refits(self) -> bool:
        """Whether the method solves for new weights, from second moments of the activations."""
        return self.method in REFITTING_METHODS

    @property
    def reconstructs(self) -> bool:
        """Whether blocks are refitted in sequence where images are at hand."""
        return self.refits if self.reconstruction is None else self.reconstruction

    @property
    def budget(self) -> str | None:
        """The name of the budget that is given, if one is."""
        return next((name for name in BUDGETS if getattr(self, name) is not None), None)

    @property
    def merges_tokens(self) -> bool:
        """Whether `token_sparsity` lets any tokens merge."""
        return any(self.token_sparsity) if isinstance(self.token_sparsity, list) else bool(self.token_sparsity)

    def _check_copies(self) -> None:
        if self.reconstruction_copies is None:
            return
        check_whole_number("reconstruction_copies", self.reconstruction_copies)
        if self.reconstruction_copies and not self.reconstructs:
            raise ValueError(
                f"reconstruction_copies={self.reconstruction_copies} means nothing with method={self.method!r} and "
                f"reconstruction={self.reconstruction}, which reconstruct nothing."
            )

    def _check_budget(self) -> None:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        for name in given:
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
                raise ValueError(f"{name} must be the share that may remain, in (0, 1], got {share!r}.")
        shares = [name for name in SHARES if getattr(self, name) != 0.0]
        if len(given) > 1 or (given and shares):
            raise ValueError(
                f"{' and '.join(given + shares)} cannot be given together: name one budget, or the shares to remove."
            )
        constraints = [name for name in ("frozen_blocks", "frozen_parts") if getattr(self, name)]
        constraints += [f"{name}={AUTO!r}" for name in REMOVALS if getattr(self, name) == AUTO]
        constraints += [name for name in _MINIMUM_SIZES if getattr(self, name) != _default(name)]
        if constraints and not given:
            raise ValueError(f"{', '.join(constraints)} only mean something with {' or '.join(BUDGETS)}.")
        if self.token_sparsity == AUTO and self.target_params is not None:
            raise ValueError(
                f"token_sparsity={AUTO!r} means nothing with target_params, since merging tokens saves no parameters. "
                "Name target_flops or target_latency, or the share of the tokens that merge."
            )
        settings = [name for name in _LATENCY_SETTINGS if getattr(self, name) != _default(name)]
        if settings and self.target_latency is None:
            raise ValueError(f"{', '.join(settings)} only mean something with target_latency.")
        for name in ("frozen_blocks", "frozen_parts"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise ValueError(f"{name} must be a list, got {getattr(self, name)!r}.")
            setattr(self, name, list(getattr(self, name)))
        _block_numbers("frozen_blocks", self.frozen_blocks)
        for part in self.frozen_parts:
            _choice("frozen_parts", part, SHARES)

    def _check_layout(self) -> None:
        if self.layout != NATIVE_LAYOUT:
            return
        if self.head_sparsity == AUTO:
            raise ValueError(
                f"head_sparsity={AUTO!r} lets every block keep its own number of heads; with layout={NATIVE_LAYOUT!r} "
                "all have one. Name the share of the heads that goes."
            )
        if self.merges_tokens:
            raise ValueError(
                f"token_sparsity needs layout={SNP_LAYOUT!r}: the classes of transformers, which "
                f"layout={NATIVE_LAYOUT!r} saves, merge no tokens."
            )
        if self.frozen_blocks:
            raise ValueError(
                f"frozen_blocks keep their sizes; with layout={NATIVE_LAYOUT!r} all blocks have the same. Leave "
                "frozen_blocks out."
            )

    def _check_dropped_blocks(self) -> None:
        dropped = self.dropped_blocks
        if dropped == AUTO:
            return
        if isinstance(dropped, (list, tuple)):
            _block_numbers("dropped_blocks", dropped)
            self.dropped_blocks = sorted(set(dropped))
            both = [block for block in self.dropped_blocks if block in self.frozen_blocks]
            if both:
                raise ValueError(f"dropped_blocks and frozen_blocks both name {', '.join(map(str, both))}.")
        elif isinstance(dropped, bool) or not isinstance(dropped, int) or dropped < 0:
            raise ValueError(
                f"dropped_blocks must be a count from 0 on, a list of block numbers or {AUTO!r}, got {dropped!r}."
            )

    @classmethod
    def from_preset(cls, name: str, **options: Any) -> "SNPConfig":
        """The shares that the paper's authors published for one of their models.

        Args:
            name (`str`):
                One of `deit-tiny-0.6g`, `deit-small-2.0g`, `deit-small-1.3g`, `deit-base-6.4g`; the number is the
                GFLOPs (multiply-accumulates) that remain. Sizes are the paper's with every method; `method="snp"`
                also chooses neurons as the paper does.
            options:
                Further fields; they overrule the preset's.

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}. The presets are {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **options})

    def to_dict(self) -> dict[str, Any]:
        """All fields as a dict that JSON can hold."""
        return asdict(self)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes `snp_config.json`, with the version of this package, into the folder, which is made if need be."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        saved = {VERSION_KEY: __version__, **self.to_dict()}
        (Path(save_directory) / CONFIG_NAME).write_text(json.dumps(saved, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **hub_options: Any) -> "SNPConfig":
        """Reads `snp_config.json` from a folder or a Hub repository.

        Args:
            name_or_path (`str` or `Path`):
                A folder, or a repository id of the Hub.
            hub_options:
                For [`huggingface_hub.hf_hub_download`]: `revision`, `token`, `cache_dir` and so on.

        Raises:
            ValueError: If a folder has no such file, or as `from_dict` does.
        """
        path = Path(name_or_path) / CONFIG_NAME
        if Path(name_or_path).is_dir():
            if not path.is_file():
                raise ValueError(f"The folder {name_or_path} has no {CONFIG_NAME}.")
        else:
            path = Path(hf_hub_download(str(name_or_path), CONFIG_NAME, **hub_options))
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} holds no config that this version can read: {error}") from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SNPConfig":
        """Reads what `to_dict` gave; fields that this version does not know are left out with a warning.

        Raises:
            ValueError: If a value is out of range.
        """
        values = {name: value for name, value in values.items() if name != VERSION_KEY}
        return read_fields(cls, values, "The saved config")


def with_other_removals(config: SNPConfig, options: dict[str, Any]) -> SNPConfig:
    """A config with other fields, of which a budget or shares take the place of what the config removes.

    Args:
        config ([`SNPConfig`]): What was asked for before.
        options (`dict[str, Any]`): Fields by name. With a budget among them, shares and budgets of the config go; with
            shares, its budgets, and what only means something within one.

    Raises:
        ValueError: If what results is no config; see [`SNPConfig`].
    """
    dropped: set[str] = set()
    if options.keys() & BUDGETS.keys():
        dropped = {*BUDGETS, *SHARES}
    elif options.keys() & {*SHARES}:
        dropped = {*BUDGETS, "frozen_blocks", "frozen_parts", *_MINIMUM_SIZES}
        dropped |= {name for name in REMOVALS if getattr(config, name) == AUTO}
    if dropped and "target_latency" not in options:
        dropped |= {*_LATENCY_SETTINGS}
    kept = {name: value for name, value in config.to_dict().items() if name not in dropped}
    return SNPConfig(**{**kept, **options})


def _default(name: str) -> Any:
    return next(option.default for option in fields(SNPConfig) if option.name == name)


def _shares(name: str, value: Any, *, nested: bool) -> Any:
    """A share, or a list of them, or of lists of them, with every number checked."""
    if isinstance(value, (list, tuple)):
        kinds = {isinstance(share, (list, tuple)) for share in value}
        if kinds == {True, False} or (True in kinds and not nested):
            raise ValueError(
                f"{name} must be a share or a list of shares{', by stage or not' * nested}, got {value!r}."
            )
        return [_shares(f"{name}[{index}]", share, nested=False) for index, share in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a share in [0, 1), got {value!r}.")
    return float(value)


def _block_numbers(name: str, blocks: list[int] | tuple[int, ...]) -> None:
    for block in blocks:
        if isinstance(block, bool) or not isinstance(block, int) or block < 0:
            raise ValueError(f"{name} must hold block numbers from 0 on, got {block!r}.")


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")
