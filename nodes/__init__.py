"""The nodes: thin ComfyUI wrappers around `artv_core`. Importing this package does not import the host; its modules
do."""
