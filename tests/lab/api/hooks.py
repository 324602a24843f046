"""What Schemathesis is told about a server under test.

It finds out ids by listing, and would sooner or later remove the user or the token it works with,
and from then on test that strangers are refused. So those are never named in what changes
something. Every second request to one thing goes to a thing that is there, so that more than
"there is no such thing" is tried.

SLUICE_API_WORLD is a JSON object: `keep`, a list of ids that must survive; `real`, an object of
ids by the first word of the path.
"""

import itertools
import json
import os
import uuid

import schemathesis

WORLD = json.loads(os.environ.get("SLUICE_API_WORLD", "{}"))
KEEP = set(WORLD.get("keep", []))
REAL = WORLD.get("real", {})
TURN = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    """Names things that are there, and spares those that must stay."""
    parameters = case.path_parameters
    if not parameters:
        return
    words = case.operation.path.split("/")
    removes = case.method.upper() == "DELETE"
    for name, value in list(parameters.items()):
        kind = {"id": words[3], "instance": "instances"}.get(name)
        if kind in REAL and not removes and next(TURN) % 2 == 0:
            parameters[name] = REAL[kind]
        elif case.method.upper() != "GET" and str(value).lower() in KEEP:
            parameters[name] = str(uuid.uuid4())
