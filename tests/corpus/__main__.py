"""``python -m tests.corpus DIRECTORY``: write the corpus, and ``verdicts.json`` beside it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tests.corpus import corpus, make_base, write


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=False))
@click.option("--seed", default=0, show_default=True, help="Of what is chosen at random.")
def main(directory: Path, seed: int) -> None:
    """Write every altered bundle to DIRECTORY/NUMBER.dipgo. DIRECTORY/verdicts.json says what each is."""
    directory.mkdir(parents=True)
    base = make_base(directory)
    verdicts = {}
    for number, alteration in enumerate(corpus(base, seed)):
        name = f"{number:04}.dipgo"
        write(alteration, base.path, directory / name)
        verdicts[name] = {"alteration": alteration.name, "verdict": alteration.verdict}
    (directory / "verdicts.json").write_text(
        json.dumps(verdicts, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    click.echo(f"{len(verdicts)} bundles in {directory}")


if __name__ == "__main__":
    main()
