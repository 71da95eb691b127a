"""Rendering from three planes: against OpenLRM's renderer, guided past empty space, and in how much memory.

The peer is OpenLRM's algorithm, stated again: planes read by grid_sample one picture after the other, features
transposed and joined, a decoder of four layers for every sample, weights spread before the second pass, everything
sorted at the end. The task is its own: one picture of 64 x 64 pixels, planes 3 x 40 x 64 x 64, 48 + 48 samples a ray,
white background. Quality is the difference of each picture from one made with 512 + 512 samples.
"""

import os
import subprocess
import sys

import torch
import torch.nn.functional as F
from common import report, side_by_side

from nvs_book.cameras import Camera, intrinsics, look_at
from nvs_book.metrics import psnr
from nvs_book.training import peak_memory, shipped
from nvs_book.triplane import (
    TriplaneDecoder,
    TriplaneField,
    colour_from_raw,
    density_from_raw,
    load_scene,
    render_rays,
    standard_scene,
)

CHANNELS, SIZE, SAMPLES, REPEATS, WHITE = 40, 64, 48, 5, (1.0, 1.0, 1.0)


class Peer:
    """OpenLRM's renderer."""

    axes = (0, 1), (0, 2), (2, 1)

    def __init__(self, planes, decoder):
        self.planes, self.decoder = planes, decoder

    def model(self, points):
        """Raw density and colour of points (r, s, 3)."""
        x = points.reshape(1, -1, 3)
        grid = torch.stack([x[..., axes] for axes in self.axes], 1).reshape(3, -1, 1, 2)
        found = F.grid_sample(self.planes.flatten(0, 1), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        features = found.permute(0, 3, 2, 1).reshape(1, 3, -1, CHANNELS).permute(0, 2, 1, 3).reshape(-1, 3 * CHANNELS)
        x = features
        for layer in self.decoder.layers[:-1]:
            x = F.relu(layer(x))
        raw = self.decoder.layers[-1](x).view(*points.shape[:2], 4)
        return raw[..., :1], colour_from_raw(raw[..., 1:])

    def march(self, colours, densities, t):
        """The sum along the rays, and the weights."""
        deltas = t[:, 1:] - t[:, :-1]
        colours_mid, densities_mid = (colours[:, :-1] + colours[:, 1:]) / 2, (densities[:, :-1] + densities[:, 1:]) / 2
        alpha = 1 - torch.exp(-density_from_raw(densities_mid) * deltas)
        shifted = torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], 1)
        weights = alpha * torch.cumprod(shifted, 1)[:, :-1]
        rgb = (weights * colours_mid).sum(1)
        return rgb + 1 - weights.sum(1), weights

    def importance(self, t, weights, count):
        """Samples where the spread weights are."""
        spread = F.max_pool1d(weights.permute(0, 2, 1), 2, 1, padding=1)
        spread = F.avg_pool1d(spread, 2, 1)[:, 0] + 0.01
        mid, pdf = (t[:, :-1, 0] + t[:, 1:, 0]) / 2, spread[:, 1:-1] + 1e-5
        cdf = F.pad((pdf / pdf.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
        u = torch.linspace(0, 1, count).expand(len(t), count).contiguous()
        above = torch.searchsorted(cdf, u, right=True)
        below, above = (above - 1).clamp(min=0), above.clamp(max=cdf.shape[-1] - 1)
        both = torch.stack([below, above], -1).view(len(t), -1)
        (c0, c1), (m0, m1) = (x.gather(1, both).view(len(t), count, 2).unbind(-1) for x in (cdf, mid))
        gap = torch.where(c1 - c0 < 1e-5, torch.ones_like(c0), c1 - c0)
        return (m0 + (u - c0) / gap * (m1 - m0))[..., None]

    def __call__(self, origins, directions):
        inverse = 1 / directions
        a, b = (-1 - origins) * inverse, (1 - origins) * inverse
        near, far = torch.minimum(a, b).amax(-1).clamp(min=0), torch.maximum(a, b).amin(-1)
        hit = near < far  # rays that miss are rendered, too
        near, far = torch.where(hit, near, near[hit].min()), torch.where(hit, far, near[hit].max())
        t = near[:, None, None] + (torch.linspace(0, 1, SAMPLES)[:, None] + 0.5 / SAMPLES) * (far - near)[:, None, None]
        densities, colours = self.model(origins[:, None] + t * directions[:, None])
        _, weights = self.march(colours, densities, t)
        with torch.no_grad():
            fine = self.importance(t, weights, SAMPLES)
        densities_fine, colours_fine = self.model(origins[:, None] + fine * directions[:, None])
        t, order = torch.sort(torch.cat([t, fine], 1), dim=1)
        colours = torch.cat([colours, colours_fine], 1).gather(1, order.expand(-1, -1, 3))
        densities = torch.cat([densities, densities_fine], 1).gather(1, order)
        return self.march(colours, densities, t)[0]


def camera(size: int) -> Camera:
    """At distance 2 from the box's centre, f = 0.75 of the picture's width."""
    return Camera(intrinsics(0.75 * size, 0.75 * size, size / 2, size / 2), look_at((0.0, -2.0, 0.3), (0.0, 0, 0)), size, size)


def scene() -> tuple[torch.Tensor, TriplaneDecoder]:
    """Smooth random planes."""
    torch.manual_seed(0)
    coarse = torch.randn(3, CHANNELS, 9, 9)
    planes = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False).contiguous()
    decoder = TriplaneDecoder(CHANNELS, hidden=64, layers=4)
    with torch.no_grad():
        decoder.layers[-1].weight[0] *= 300
    return planes, decoder


def draw(planes, decoder, rays, samples=SAMPLES):
    """A picture by two passes."""
    return render_rays(TriplaneField(planes, decoder), *rays, samples, samples, background=WHITE).rgb


def against_openlrm() -> None:
    """The same picture, forward, and forward with all gradients."""
    planes, decoder = scene()
    rays = tuple(x.flatten(0, 1) for x in camera(64).rays())
    ours, theirs = (lambda: draw(planes, decoder, rays)), (lambda: Peer(planes[None], decoder)(*rays))
    with torch.no_grad():
        best = draw(planes, decoder, rays, 512)
        errors = {f"{who}_error": float((call() - best).abs().mean()) for who, call in (("our", ours), ("peer", theirs))}
        times = side_by_side(ours, theirs, repeats=REPEATS)
    report("triplane: 64x64 picture, 48 + 48 samples, forward", times[0], "OpenLRM's renderer", times[1], **errors)
    planes.requires_grad_()
    upstream, everything = torch.randn(len(rays[0]), 3), (planes, *decoder.parameters())
    both = [lambda call=call: torch.autograd.grad(call(), everything, upstream) for call in (ours, theirs)]
    times = side_by_side(*both, repeats=REPEATS)
    report("triplane: 64x64 picture, 48 + 48 samples, forward + backward", times[0], "OpenLRM's renderer", times[1])


def past_empty_space() -> None:
    """Held-out views of the standard scene: the grid's guidance, with as few samples as are as good as two passes of 48."""
    model, (_, heldout, _) = load_scene(shipped("triplane")), standard_scene()
    field, unit = model.field(), model.options["box_size"] / 2
    origins, directions = heldout.camera.rays()
    options = dict(rule="point", near=model.options["near"] / unit)

    def picture(first, second, grid=None):
        return render_rays(field, (origins - model.center) / unit, directions, first, second, grid=grid, **options).rgb

    def quality(made):
        return psnr(made.movedim(-1, -3).clamp(0, 1), heldout.image).mean().item()

    with torch.no_grad():
        plain = quality(picture(SAMPLES, SAMPLES))
        samples = next(n for n in range(8, 97, 4) if quality(picture(128, n, model.grid)) >= plain)
        times = side_by_side(lambda: picture(128, samples, model.grid), lambda: picture(SAMPLES, SAMPLES), repeats=REPEATS)
        more = dict(our_samples=samples, our_psnr=quality(picture(128, samples, model.grid)), peer_psnr=plain)
    quarter = len(model.grid) // 4  # the box is the middle half of an unbounded scene's grid
    empty = (model.grid[quarter:-quarter, quarter:-quarter, quarter:-quarter] < 0.5).float().mean().item()
    report("triplane: past empty space, guided by a grid", times[0], "two passes of 48", times[1], empty=empty, **more)


def memory() -> None:
    """Most memory of a process that renders 512 x 512 pixels; the peer is one that only loads the package."""
    runs = [subprocess.run([sys.executable, __file__, size], check=True, capture_output=True, text=True) for size in ("512", "0")]
    own = [int(run.stdout) for run in runs]
    report("triplane: 512x512 picture, 48 + 48 samples, bytes of the process", own[0], "a process that renders nothing", own[1])


if __name__ == "__main__":
    if sys.argv[1:]:
        size = int(sys.argv[1])
        if size:
            with torch.no_grad():
                draw(*scene(), tuple(x.flatten(0, 1) for x in camera(size).rays()))
        print(peak_memory(torch.device("cpu")))
    else:
        os.chdir(os.path.dirname(os.path.abspath(__file__)))
        against_openlrm()
        past_empty_space()
        memory()
