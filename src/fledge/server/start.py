"""Load the models, and run the server until a stop signal."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fledge.core.errors import UserError
from fledge.recipes.load_engine import load_engine
from fledge.server.app import make_app
from fledge.server.models import ServedModel
from fledge.server.token_text import TokenText
from fledge.web.access import Access
from fledge.web.serving import bind, serve, url_of
from fledge.web.worker import Worker

MAX_QUEUE = 100_000


def start_server(
    runs: Sequence[str | None],
    folder: Path,
    access: Access,
    port: int,
    ready: Callable[[str, list[ServedModel]], None],
    *,
    slots: int,
    queue: int,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """runs: references; None is the latest run. ready: called with the URL once requests are answered.

    slots: texts that each model writes at the same time; queue: texts that may wait for a slot.
    """
    if not 0 <= queue <= MAX_QUEUE:
        raise UserError(f"--queue cannot be {queue}", f"how many texts may wait: 0 to {MAX_QUEUE:,}")
    listener = bind(access.host, port)  # first: loading takes seconds, and the port may be in use
    with listener:
        models: dict[str, ServedModel] = {}
        for reference in runs:
            model = load_model(reference, folder, slots=slots, queue=queue, device=device, dtype=dtype)
            if model.name in models:
                raise UserError(f"two models would be named '{model.name}'", "name each run once, or rename one")
            models[model.name] = model
        url = url_of(listener, access.host)
        serve(make_app(models, access), listener, lambda: ready(url, list(models.values())))


def load_model(reference: str | None, folder: Path, *, slots: int, queue: int, device: str, dtype: str) -> ServedModel:
    """Clients call it by the reference, as `hamlet` or `hamlet@1000`; of a path, the last part."""
    loaded = load_engine(reference, folder, slots=slots, device=device, dtype=dtype)
    name = loaded.run.name if reference is None else Path(reference).name
    tokenizer = loaded.tokenizer
    return ServedModel(
        name=name,
        tokenizer=tokenizer,
        context=loaded.model.context,
        template=loaded.run.chat_template(),
        worker=Worker(loaded.engine, queue),
        texts=TokenText(tokenizer),
    )
