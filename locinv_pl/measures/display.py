"""Every measure once: its name, which way is better, and how tables and captions show it.

Files keep plain values under the measures' keys; what is shown is scaled alike everywhere, as PIE-Bench's tables are.
"""

from __future__ import annotations

from dataclasses import dataclass

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Measure:
    """How one measure is shown.

    Args:
        key: its key in summary.json, test.json and comparison.json.
        name: its name in tables.
        unit: what stands behind its values; "" for plain numbers.
        power: tables show its values times 10 to this power.
        digits: digits behind the point in tables; captions have one less.
        higher_is_better: whether more of it is better.

    >>> lpips = Measure("lpips", "LPIPS", power=3, higher_is_better=False)
    >>> lpips.title, lpips.cell(0.06067), lpips.cell(-0.002, sign="+"), lpips.cell(None)
    ('LPIPS × 10³', '60.67', '-2.00', '-')
    """

    key: str
    name: str
    unit: str = ""
    power: int = 0
    digits: int = 2
    higher_is_better: bool = True

    @property
    def title(self) -> str:
        """Its name with scale and unit, as the head of a table's column."""
        scale = f" × 10{str(self.power).translate(SUPERSCRIPTS)}" if self.power else ""
        return f"{self.name}{scale}" + (f" [{self.unit}]" if self.unit else "")

    def cell(self, value: float | None, sign: str = "") -> str:
        """A value in a table, on the title's scale; "-" where there is none. With ``sign="+"`` gains have a plus."""
        return "-" if value is None else f"{10**self.power * value:{sign}.{self.digits}f}"

    def caption(self, value: float) -> str:
        """A value as figures and pages say it: unscaled, with its unit.

        >>> MEASURES["psnr"].caption(31.26)
        '31.3 dB'
        """
        return f"{value:.{self.digits - 1}f}" + (f" {self.unit}" if self.unit else "")


MEASURES = {
    measure.key: measure
    for measure in (
        Measure("attention_iou_initial", "IoU, plain DDIM", digits=3),
        Measure("attention_iou", "IoU", digits=3),
        Measure("psnr", "PSNR", "dB"),
        Measure("psnr_vae", "VAE ceiling", "dB"),
        Measure("ssim", "SSIM", power=2),
        Measure("lpips", "LPIPS", power=3, higher_is_better=False),
        Measure("structure_distance", "structure", power=3, higher_is_better=False),
        Measure("background_psnr", "background PSNR", "dB"),
        Measure("background_lpips", "background LPIPS", power=3, higher_is_better=False),
        Measure("background_mse", "background MSE", power=4, higher_is_better=False),
        Measure("background_ssim", "background SSIM", power=2),
        Measure("clip_target", "CLIP"),
        Measure("clip_edited", "CLIP, edited part"),
        Measure("dino_similarity", "ViT similarity", digits=3),
        Measure("success", "success"),
        Measure("seconds_per_image", "s / image", digits=1, higher_is_better=False),
        Measure("seconds_per_edit", "s / edit", digits=1, higher_is_better=False),
    )
}
