"""Research driver."""

from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from ..structure import describe
from .regression import RegressionSums, solve
from .steps import first_stream, inputs_of, layer_of, name_of, norms_by_reader, record_steps


@dataclass
class Options:
    ridge: float = 1e-3
    reader_ridge: float = 1e-2
    readers: bool = False
    up: bool = False
    heads: float | None = None
    token_weights: dict | None = None   # name of writer -> [tokens]
    floor: float = 0.1
    progress: bool = False


def _rows(t):
    return t.flatten(0, -2)


@torch.inference_mode()
def reconstruct(dense, wide, pruned, kept_blocks, directions, chunks, options):
    """Changes pruned in place. chunks: list of pixel value tensors."""
    ds, ps = describe(dense), describe(pruned)
    dsteps = record_steps(dense, ds, chunks[0][:1])
    psteps = record_steps(pruned, ps, chunks[0][:1])
    wide_s = describe(wide)
    D = [first_stream(dense, ds, c) for c in chunks]
    P = [first_stream(pruned, ps, c) for c in chunks]
    wnorms = norms_by_reader(wide_s)
    pnext = 0
    dnext = 0

    def project(stream, index):
        return stream if directions[index] is None else stream @ directions[index].float()

    def weights_of(name, n, tokens):
        if options.token_weights is None or name not in options.token_weights:
            return None
        w = options.token_weights[name]
        w = w / w.mean()
        w = (1 - options.floor) * w + options.floor
        return w.float().expand(n, tokens).reshape(-1)

    def refit(layer, sums, ridge, start=None):
        w, b = solve(sums, layer.weight if start is None else start, layer.bias, ridge)
        layer.weight.copy_(w)
        if b is not None:
            layer.bias.copy_(b)

    progress = tqdm(total=len(ps.blocks), disable=not options.progress)
    while pnext < len(psteps):
        pstep = psteps[pnext]
        if pstep.block is None:  # merging
            P = [pstep(p) for p in P]
            while dsteps[dnext].block is not None:
                D = [dsteps[dnext](d) for d in D]; dnext += 1
            D = [dsteps[dnext](d) for d in D]; dnext += 1
            pnext += 1
            continue
        index = pstep.block
        pb = ps.blocks[index]
        wb = wide_s.blocks[index]
        dense_index = kept_blocks[index]
        while dsteps[dnext].block != dense_index:
            D = [dsteps[dnext](d) for d in D]; dnext += 1
        db = ds.blocks[dense_index]
        dstep = dsteps[dnext]; dnext += 1
        q, k, v, o, up, down = (layer_of(pb, r) for r in ("query", "key", "value", "output", "up", "down"))
        stream = pb.stream
        # dense
        mids, outs = [], []
        rsums = RegressionSums.zeros(q.in_features, q.out_features + k.out_features + v.out_features)
        for d, p in zip(D, P):
            got = {}
            h = layer_of(db, "output").register_forward_hook(lambda m, i, out: got.__setitem__("mid", out))
            h2 = layer_of(db, "query").register_forward_pre_hook(lambda m, i: got.__setitem__("x", i[0]))
            outs.append(dstep(d)); h.remove(); h2.remove()
            mids.append(d + got["mid"])
            if options.readers:
                (x,) = inputs_of([q], lambda: pstep(p))
                wx = got["x"]
                target = torch.cat([layer_of(wb, r)(wx) for r in ("query", "key", "value")], -1)
                rsums.add(_rows(x), _rows(target))
        if options.readers:
            moments = rsums
            start = torch.cat([l.weight for l in (q, k, v)])
            bias = None if q.bias is None else torch.cat([l.bias for l in (q, k, v)])
            w, b = solve(rsums, start, bias, options.reader_ridge)
            at = 0
            for l in (q, k, v):
                n = l.out_features
                l.weight.copy_(w[at:at + n])
                if b is not None: l.bias.copy_(b[at:at + n])
                at += n
        # output
        sums = RegressionSums.zeros(o.in_features, o.out_features)
        for p, mid in zip(P, mids):
            (c,) = inputs_of([o], lambda: pstep(p))
            sums.add(_rows(c), _rows(project(mid, stream) - p), weights_of(name_of(db, "output"), *p.shape[:2]))
        refit(o, sums, options.ridge)
        if options.up:
            sums = RegressionSums.zeros(up.in_features, up.out_features)
            norm = wide.get_submodule(wnorms[name_of(wb, "up")].name)
            for p, mid in zip(P, mids):
                (x,) = inputs_of([up], lambda: pstep(p))
                sums.add(_rows(x), _rows(layer_of(wb, "up")(norm(mid))))
            refit(up, sums, options.reader_ridge)
        # following dropped blocks
        while dnext < len(dsteps) and dsteps[dnext].block is not None and dsteps[dnext].block not in kept_blocks:
            outs = [dsteps[dnext](d) for d in outs]; dnext += 1
        sums = RegressionSums.zeros(down.in_features, down.out_features)
        for p, out in zip(P, outs):
            got = {}
            h = o.register_forward_hook(lambda m, i, out: got.__setitem__("mid", out))
            (a,) = inputs_of([down], lambda: pstep(p)); h.remove()
            pm = p + got["mid"]
            sums.add(_rows(a), _rows(project(out, stream) - pm), weights_of(name_of(db, "down"), *p.shape[:2]))
        refit(down, sums, options.ridge)
        D = outs
        P = [pstep(p) for p in P]
        pnext += 1
        progress.update()
    progress.close()
    if options.heads is not None:
        for norm in ps.streams[-1].norms:
            for reader in norm.readers:
                layer = pruned.get_submodule(reader)
                if reader in ("classifier",):
                    dn = dense.get_submodule(norm.name); pn = pruned.get_submodule(norm.name)
                    sums = RegressionSums.zeros(layer.in_features, layer.out_features)
                    for d, p in zip(D, P):
                        sums.add(_rows(norm.read(pn(p))), _rows(dense.get_submodule(reader)(norm.read(dn(d)))))
                    refit(layer, sums, options.heads)
    return pruned
