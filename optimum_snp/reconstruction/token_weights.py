"""How much each token counts in a regression: in the last blocks of a classifier hardly any but the class token does.

The weight of a token is how strongly the outputs answer to a change of what a layer adds to it, `sum |g|^2` for the
gradient `g` of a random signed sum of the outputs (as in [`optimum_snp.calibration.sensitivities`]), in the mean over
images. Those of a layer have the mean 1, and half of each is the same for all tokens: behind the last block but one a
patch has no effect, and a regression on the class tokens alone would be singular.
"""

import torch

from ..calibration.sensitivities import CHUNK_SIZE, counted_outputs, frozen
from ..models import SNPModel
from ..structure import describe


# The share of the weights that is the same for all tokens (docs/real-model.md).
EVEN_SHARE = 0.5
NUM_IMAGES = 16


def token_weights(model: SNPModel, pixel_values: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    """For every module whose output a block adds to its stream, by its name, the weights of the tokens, `[tokens]`.

    Takes what [`token_energies`] does.
    """
    return {name: evened(energy) for name, energy in token_energies(model, pixel_values, seed).items()}


def token_energies(model: SNPModel, pixel_values: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    """For every layer that writes a stream from a block, by its name, `sum |g|^2` of the tokens, `[tokens]`.

    Args:
        model:
            The dense model, in eval mode.
        pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`):
            Of which `NUM_IMAGES` are used; on the device of the model.
        seed (`int`, *optional*):
            Of the signs.
    """
    writers = [layer for block in describe(model).blocks for layer in (block.attention_end, block.mlp_end)]
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output)
        )
        for name in writers
    ]
    energies: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    try:
        for chunk in pixel_values[:NUM_IMAGES].split(CHUNK_SIZE):
            with torch.inference_mode(False), torch.enable_grad(), frozen(model):
                found = counted_outputs(model(chunk.clone().requires_grad_()), model.config)
                signs = [torch.randint(0, 2, output.shape, generator=generator) * 2 - 1 for output in found]
                product = sum((output * sign.to(output)).sum() for output, sign in zip(found, signs, strict=True))
                # A backbone need not put out what its last blocks add.
                gradients = torch.autograd.grad(
                    product, [outputs[name] for name in writers], allow_unused=True, materialize_grads=True
                )
            for name, gradient in zip(writers, gradients, strict=True):
                energy = gradient.float().square().sum(dim=(0, 2))
                energies[name] = energies[name] + energy if name in energies else energy
    finally:
        for handle in handles:
            handle.remove()
    return {name: energy / len(pixel_values[:NUM_IMAGES]) for name, energy in energies.items()}


def evened(energy: torch.Tensor) -> torch.Tensor:
    """The weights of tokens from their energies, `[tokens]` both."""
    mean = energy.mean()
    relative = energy / mean if mean > 0 else torch.ones_like(energy)
    return EVEN_SHARE + (1 - EVEN_SHARE) * relative
