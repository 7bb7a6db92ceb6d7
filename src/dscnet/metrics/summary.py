"""Results of a run as text."""

from __future__ import annotations

from typing import Any


def metrics_table(metrics: dict[str, Any]) -> str:
    """Results as text, one line per stage."""
    lines = [f"{'stage':14}{'split':8}{'photos':>7}{'mIoU':>8}{'best bg':>9}"]
    for name in ("cam", "pseudo_label", "segmenter"):
        section = metrics.get(name)
        if section is None:
            lines.append(f"{name:14}not measured")
            continue
        best = section["miou_best_bg"]
        lines.append(
            f"{name:14}{section['split'] or '':8}{section['num_images']:>7}"
            f"{_percent(section['miou']):>8}{'' if best is None else _percent(best):>9}"
        )
    for row in metrics.get("rounds", []):
        reached = ", ".join(
            f"{name} {_percent(row[name]['miou'])}"
            for name in ("cam", "pseudo_label", "segmenter")
            if row[name] is not None
        )
        lines.append(f"round {row['round']}: {reached or 'not measured'}")
    for name, key in (("tags (mAP)", "map"), ("tags of the masks (F1)", "mask_f1")):
        score = metrics.get("tags", {}).get(key)
        if score is not None:
            lines.append(f"{name:29}{100 * score:>8.1f}")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    """A fraction in percent; None (mIoU without labelled pixels) as a dash."""
    return "-" if share is None else f"{100 * share:.1f}"
