"""Every node has a help page that the host serves, and the page names every input and output."""

import urllib.request

from artv_core.comfyui import ADDRESS, LINKED_AS, PACK, Server


def test_every_node_has_a_page_that_names_its_inputs_and_outputs(server: Server) -> None:
    nodes = {name: node for name, node in server.get("/object_info").items() if node["category"] == "ARTV"}
    assert {path.stem for path in (PACK / "js" / "docs").glob("*.md")} == set(nodes)
    for name, node in nodes.items():
        with urllib.request.urlopen(f"http://{ADDRESS}:{server.port}/extensions/{LINKED_AS}/docs/{name}.md") as answer:
            page = answer.read().decode()
        assert page.startswith(f"# {node['display_name']}\n")
        named = {*node["input"].get("required", {}), *node["input"].get("optional", {}), *node["output_name"]}
        missing = [one for one in named if f"`{one}`" not in page]
        assert not missing, (name, missing)
