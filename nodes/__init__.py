"""The nodes: thin ComfyUI wrappers over `artv_core`. Importing this package imports no host; its modules do."""
