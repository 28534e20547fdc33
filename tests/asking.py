"""A process that has something from the start, or never: several devices, or more threads than there are processors."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import traceback


@contextlib.contextmanager
def process(**environment):
    """`ask(question, *args, **kwargs)`, which fails as the question does in a process that has this environment."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(os.getpid).result()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

        def ask(question, *args, **kwargs):
            failure = process.submit(told, question, *args, **kwargs).result()
            assert failure is None, failure

        yield ask


def told(question, *args, **kwargs):
    """How `question` fails, as text, since not every error of jax travels between processes; or None."""
    try:
        question(*args, **kwargs)
    except Exception as error:
        return "".join(traceback.format_exception(error, limit=-12, chain=False))
    return None
