"""The calls that each client in Python makes, and the results, as in the protocol.

usage of the clients: CLIENT GENERATION URL
                      CLIENT GENERATION COMMAND ARGUMENT...

GENERATION is "sessions" or "stateless". A client prints the results as one JSON object.
"""

import asyncio
import json
import os
import sys

GENERATION = sys.argv[1]
URL = sys.argv[2] if sys.argv[2].startswith("http") else None
COMMAND, ARGUMENTS = sys.argv[2], sys.argv[3:]
ENVIRONMENT = dict(os.environ)

progress = []
questions = []
receipts = []


async def on_progress(done, total, message):
    progress.append([done, total, message])
    # This request tells the server that the progress was received; it waits for that.
    receipts.append(asyncio.create_task(acknowledge()))


def answer(question):
    """The user's answer to every question."""
    questions.append(question)
    return {"name": "Ada"}


def wire(result):
    """A result, as it was on the wire."""
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def tell(server, tools, call, read, prompt):
    """Makes all calls with the client's functions, and prints the results."""
    global acknowledge

    def acknowledge():
        return prompt("greet")

    saw = {"server": server, "tools": [wire(tool) for tool in await tools()]}
    for name, arguments in [
        ("default", {}),
        ("staging", {"aws_profile": "staging"}),
        ("refused", {"aws_profile": "nobody"}),
    ]:
        saw[name] = wire(await call("whoami", arguments))
    saw["noted"] = wire(await call("write_note", {"note": "1", "aws_profile": "prod"}))
    try:
        saw["unknown"] = str(await call("no_such", {}))
    except Exception as error:
        saw["unknown"] = str(error)
    saw["resource"] = wire(await read("test://note"))
    saw["prompt"] = wire(await prompt("greet"))
    await asyncio.gather(*receipts)
    print(json.dumps(saw | {"progress": progress, "questions": questions}))
