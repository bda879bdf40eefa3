/**
 * Advanced inputs in the classic canvas: hidden until "Show Advanced" in the node's menu is chosen, unless a wire feeds
 * them or they are boxes with a text. Nodes 2.0 has a button for that and needs nothing of this.
 */

import { app, isWired, setting, watch } from "./page.js"

const GAP = 4 // what the canvas adds to the height of each widget

app.registerExtension({
  name: "ARTV.advanced",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("ARTV") || typeof node.toggleAdvanced !== "function") return
    const widgets = advancedOf(node)
    if (!widgets.length) return
    for (const widget of widgets) closeRanks(node, widget)
    const always = () => !!setting("Comfy.Node.AlwaysShowAdvancedWidgets")
    const isShown = (widget) => always() || isWired(node, widget.name) || isWritten(widget)
    const hide = (shown) => {
      widgets.forEach((widget, index) => (widget.advanced = !shown[index]))
      node.graph?.setDirtyCanvas(true, true)
    }
    const check = watch(node, () => widgets.map(isShown), hide)
    check()
    node.setSize([node.size[0], node.computeSize()[1]])
  },
})

function advancedOf(node) {
  const { required, optional } = node.constructor.nodeData?.input ?? {}
  const inputs = { ...required, ...optional }
  return (node.widgets ?? []).filter(({ name }) => inputs[name]?.[1]?.advanced)
}

function isWritten({ type, value }) {
  return type === "customtext" && !!String(value ?? "").trim()
}

/** The canvas leaves room for hidden advanced widgets, so they say that they need none. */
function closeRanks(node, widget) {
  const { computeSize } = widget
  const none = () => [0, -GAP]
  const isHidden = () => widget.advanced && !node.showAdvanced && !window.LiteGraph?.vueNodesMode
  Object.defineProperty(widget, "computeSize", { configurable: true, get: () => (isHidden() ? none : computeSize) })
}
