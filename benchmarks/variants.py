"""Run the paper's variants (baseline, M1 to M4) of a recipe over seeds; write one JSON.

python benchmarks/variants.py --data MSRC --out runs/v --json benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import yaml

from dscnet.config import Config, from_dict, replace_settings
from dscnet.experiments import VARIANTS, run_grid, summarise, table, write_results
from dscnet.recipes import find_recipe


def main() -> None:
    """Run the grid; a run that is finished is not repeated."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--config", default="msrc_seam_dscnet")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--stages", nargs="+", default=["train", "cam", "label", "evaluate"])
    parser.add_argument("--strict-masks", type=Path, help="second folder of true masks")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings over the recipe's"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = {
        name: yaml.safe_load(value) for name, value in (item.split("=", 1) for item in options.set)
    }
    config = from_dict(Config, yaml.safe_load(find_recipe(options.config).read_text()))
    config = replace_settings(config, {**settings, "data": options.data})
    rows = run_grid(
        config,
        options.out,
        {name: VARIANTS[name] for name in options.variants},
        options.seeds,
        stages=options.stages,
        strict_masks=options.strict_masks,
    )
    words = [Path(word).name if "/" in word else word for word in sys.argv]
    write_results(options.json, rows, command="python benchmarks/" + " ".join(words), config=config)
    print(table(summarise(rows)))


if __name__ == "__main__":
    main()
