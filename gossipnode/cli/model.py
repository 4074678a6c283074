"""``gossipnode model``: fetch a node's model as a file, and measure a model file on data."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from gossipnode.cli.addresses import NODE_URL
from gossipnode.cli.app import NETWORK, OK, STORAGE, USAGE, notes
from gossipnode.cli.columns import decimal
from gossipnode.cli.finite import FiniteFloat
from gossipnode.cli.process import raise_on_signals
from gossipnode.cli.readers import hinted, readers_token_option, token_in
from gossipnode.errors import DataError, NetworkError, StorageError
from gossipnode.learning.modelfile import learner_for_model, load_model
from gossipnode.logs import bounded
from gossipnode.network import HttpClient, NoNodeError, ToldError

# 4 GiB: a model of a billion float32 params.
MODEL_BYTES_MAX = 2**32
TIMEOUT_S = 600.0


@click.group()
def command() -> None:
    """Fetch a node's model, or measure one on data."""


@command.command(
    epilog=notes(
        OK, USAGE, NETWORK, STORAGE,
        examples=["gossipnode model pull http://10.0.0.5:7946 model.safetensors"],
    )
)  # fmt: skip
@click.argument("url", type=NODE_URL)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@readers_token_option
@click.option("--json", "as_json", is_flag=True, help="Print the model's facts as one JSON object.")
def pull(url: str, file: Path, token_file: str, as_json: bool) -> None:
    """Fetch the current model of the node at URL into FILE (safetensors)."""
    raise_on_signals()  # no part of a file is left
    data = asyncio.run(_fetch(url, token_in(token_file)))
    # Beside the target and renamed: what goes wrong leaves an older file as it was.
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(data)
        try:
            params, facts = load_model(part)
        except DataError as error:
            if not data.startswith(b"{", 8):  # the header of every safetensors file
                raise NoNodeError(url) from None
            raise NetworkError(f"{url}: what came is no model: {error}") from None
        part.replace(file)
    except OSError as error:
        raise StorageError(f"{file}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    told = {k: bounded(facts.get(k, "")) for k in ("swarm", "node", "algorithm", "round", "age")}
    if as_json:
        click.echo(json.dumps({"file": str(file), "params": params.size, **told}))
    else:
        click.echo(f"{file}: {params.size} params, round {told['round']}, age {told['age']}")


@command.command(
    "eval",
    epilog=notes(
        OK, USAGE,
        examples=[
            "gossipnode model eval model.safetensors",
            "gossipnode model eval model.safetensors --data csv:test.csv --label quality",
        ],
    ),
)  # fmt: skip
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--data",
    default="digits",
    show_default=True,
    help="What to measure on: digits, idx:DIR, npz:FILE, csv:FILE or parquet:FILE; all samples, "
    "or the test samples of data that brings its own.",
)
@click.option("--label", help="Name of the label column, where the table calls it otherwise.")
@click.option(
    "--test-fraction",
    type=FiniteFloat(0, 0.9),
    default=0.0,
    show_default=True,
    help="Measure on this share alone, the one that nodes with data.test_fraction set so kept "
    "out of training; 0: all samples.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(file: Path, data: str, label: str | None, test_fraction: float, as_json: bool) -> None:
    """Measure loss and accuracy of the model in FILE."""
    params, facts = load_model(file)
    learner = learner_for_model(facts, data=data, label=label, test_fraction=test_fraction)
    found = learner.evaluate(params)
    if as_json:
        result = {"loss": found.loss, "accuracy": found.accuracy, "samples": found.samples}
        click.echo(json.dumps(result))
    else:
        accuracy = "" if found.accuracy is None else f"accuracy {decimal(found.accuracy)}, "
        click.echo(f"loss {decimal(found.loss)}, {accuracy}{found.samples} samples")


async def _fetch(url: str, token: str) -> bytes:
    async with HttpClient(token=token) as client:
        try:
            return await client.get_bytes(f"{url}/v1/model", MODEL_BYTES_MAX, TIMEOUT_S)
        except ToldError as error:
            raise NetworkError(hinted(error)) from None
