"""The shares removed per layer that the authors of SNP published for their models.

Source: SNP (arXiv 2404.11630) and its public repository. MLP and width shares are rounded to one decimal, which moves
them by less than 0.002.
"""

PRESETS = {
    "deit-tiny-0.6g": {
        "qk_sparsity": [0.390625] * 3 + [0.5, 0.59375, 0.5, 0.59375] + [0.6875] * 5,
        "v_sparsity": [0.203125] * 2
        + [0.40625, 0.515625, 0.40625, 0.703125, 0.40625, 0.40625, 0.515625, 0.609375]
        + [0.703125] * 2,
        "mlp_sparsity": [0.2] * 5 + [0.4, 0.3, 0.3, 0.2, 0.3, 0.4, 0.5],
        "hidden_sparsity": 0.203125,
    },
    "deit-small-2.0g": {
        "qk_sparsity": [0.609375] * 7 + [0.796875] * 5,
        "v_sparsity": [0.203125] + [0.40625] * 3 + [0.515625] * 3 + [0.609375] + [0.703125] * 2 + [0.8125] * 2,
        "mlp_sparsity": [0.2] * 5 + [0.3, 0.2] + [0.4] * 3 + [0.8] * 2,
        "hidden_sparsity": 0.2,
    },
    "deit-small-1.3g": {
        "qk_sparsity": [0.59375] + [0.6875] * 2 + [0.796875] * 9,
        "v_sparsity": [0.8125] + [0.703125] * 2 + [0.8125] * 9,
        "mlp_sparsity": [0.1] + [0.3] * 2 + [0.8] * 9,
        "hidden_sparsity": 0.1015625,
    },
    "deit-base-6.4g": {
        "qk_sparsity": [0.7] * 5 + [0.6] + [0.7] * 4 + [0.6, 0.7],
        "v_sparsity": [0.7] * 5 + [0.6, 0.7, 0.6] + [0.7] * 2 + [0.4, 0.5],
        "mlp_sparsity": [0.3, 0.6] + [0.3] * 3 + [0.5, 0.3, 0.4, 0.3] + [0.4] * 2 + [0.7],
        "hidden_sparsity": 0.3,
    },
}
