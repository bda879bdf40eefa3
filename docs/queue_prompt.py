"""Queue a workflow in a running ComfyUI and wait for its files; needs aiohttp, which ComfyUI brings.

python docs/queue_prompt.py workflows/api/text_to_video.json [127.0.0.1:8188]
"""

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp


async def queue(workflow: str, address: str = "127.0.0.1:8188") -> None:
    """Queue the workflow, and print the files that ComfyUI makes. If ComfyUI refuses the graph or a part of it, or a
    node fails, or the run is interrupted, print the reason and exit with code 1."""
    client = uuid.uuid4().hex
    prompt = read(workflow)
    async with (
        aiohttp.ClientSession(f"http://{address}") as session,
        session.ws_connect(f"/ws?clientId={client}", max_msg_size=0) as socket,
    ):
        async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as answer:
            queued = await answer.json()
        if "prompt_id" not in queued:
            sys.exit(f"refused: {json.dumps(queued, indent=2)}")
        refused = queued.get("node_errors")
        if refused:  # ComfyUI runs the outputs that do not depend on these nodes
            print(f"partly refused: {json.dumps(refused, indent=2)}", file=sys.stderr)
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue  # a preview image
            event = json.loads(message.data)
            data = event["data"]
            if data.get("prompt_id") != queued["prompt_id"]:
                continue
            if event["type"] == "progress":
                print(f"node {data['node']}: {data['value']} of {data['max']}", file=sys.stderr)
            elif event["type"] == "executed":
                for file in (data["output"] or {}).get("images", []):  # None if it is cached and shows nothing
                    print("/".join(filter(None, (file["type"], file["subfolder"], file["filename"]))))
            elif event["type"] == "execution_error":
                sys.exit(f"{data['node_type']}: {data['exception_message'].strip()}")
            elif event["type"] == "execution_interrupted":
                sys.exit("interrupted")
            elif event["type"] == "execution_success":
                if refused:
                    sys.exit(1)
                return
    sys.exit("ComfyUI closed the connection")


def read(workflow: str) -> Any:
    """The graph in a file."""
    try:
        return json.loads(Path(workflow).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {workflow}: {getattr(error, 'strerror', None) or error}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        asyncio.run(queue(*sys.argv[1:]))
    except aiohttp.ClientConnectionError as error:
        sys.exit(f"cannot reach ComfyUI: {error}; start it, or give its address")
