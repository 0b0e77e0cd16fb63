"""What the tests of the architectures share: images, random weights, and how outputs are compared."""

import torch
import torch.nn.functional as F


# The vision towers of transformers' families, for patches of 8 pixels.
VISION_SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 24,
    "patch_size": 8,
}


def images_of(*size, batch_size=2):
    return torch.randn(batch_size, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_same(outputs, expected):
    """All that is in both, and nothing that is in one alone, is near to 1e-5."""
    assert outputs.keys() == expected.keys()
    torch.testing.assert_close({**outputs}, {**expected}, atol=1e-5, rtol=1e-5)


def randomize(model):
    """Draws every parameter; norms around 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                around = float(isinstance(module, torch.nn.LayerNorm) and name == "weight")
                parameter.copy_(around + 0.2 * torch.randn(parameter.shape))
    return model.eval()


def record_attention(monkeypatch):
    """A list of queries, keys and values, `[batch, heads, tokens, dim]`, which every fused attention now adds to."""
    calls = []
    fused = F.scaled_dot_product_attention

    def spy(query, key, value, **options):
        calls.append((query, key, value))
        return fused(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return calls
