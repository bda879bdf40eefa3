/** Shared by all parts of the front end: the host's objects, elements, panels inside nodes, and translated texts. */

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

export { api, app }

const CHECK_MILLISECONDS = 250

document.head.append(
  element("link", { rel: "stylesheet", href: new URL("./artv.css", import.meta.url).href }),
)

/**
 * Create an element with attributes (`on...` ones are listeners, given as functions) and children (elements or
 * strings).
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value)
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value)
  }
  made.append(...children)
  return made
}

/**
 * Show `root` at the bottom of a node, at least `height` pixels high. It is not saved or queued, so it does not change
 * the workflow.
 */
export function addPanel(node, name, root, height) {
  root.classList.add("artv-panel")
  root.style.minHeight = `${height}px`
  root.dataset.panel = name
  const widget = node.addDOMWidget(name, name, root, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // the page's side panel would show an empty row
    getMinHeight: () => height,
  })
  widget.serialize = false
  keepNodesWidth(widget)
  root.addEventListener("wheel", passToCanvas, { passive: false })
  watch(node, () => root.isConnected || takePlace(node, name, root), () => {})
  return widget
}

/**
 * A panel is as wide as its node. Drawing a widget in the page's side panel sets its width to that of the side panel,
 * and the canvas would keep using that width.
 */
function keepNodesWidth(widget) {
  Object.defineProperty(widget, "width", { configurable: true, get: () => undefined, set() {} })
}

/** Undo creates nodes again under their old numbers, but Nodes 2.0 keeps showing the panel of the old node. */
function takePlace(node, name, root) {
  if (!window.LiteGraph?.vueNodesMode || node.graph !== app.canvas.graph) return
  document.querySelector(`[data-node-id="${node.id}"] [data-panel="${name}"]`)?.replaceWith(root)
}

/**
 * In the classic canvas a panel covers the canvas, so wheel events are passed on for zooming. In Nodes 2.0 the node
 * does this.
 */
function passToCanvas(event) {
  if (window.LiteGraph?.vueNodesMode || scrolls(event.target, event.currentTarget)) return
  event.preventDefault()
  app.canvas.processMouseWheel(event)
}

/** Whether something between `inner` and the panel can be scrolled up or down. */
function scrolls(inner, panel) {
  for (let part = inner; part && part !== panel; part = part.parentElement) {
    const overflow = getComputedStyle(part).overflowY
    if ((overflow === "auto" || overflow === "scroll" || part.tagName === "TEXTAREA") && part.scrollHeight > part.clientHeight)
      return true
  }
  return false
}

/** Make a new node at least this wide. A node from a file keeps the size in the file. */
export function widen(node, width) {
  const [needed, height] = node.computeSize()
  node.setSize([Math.max(needed, width), height])
}

/** The widget of a node by its name, or undefined. */
export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name)
}

/** Give a widget a value as a person would. */
export function setWidget(node, widget, value) {
  widget.value = value
  widget.callback?.(value, app.canvas, node)
}

/** Whether a wire feeds an input of a node, so that its widget has no effect. */
export function isWired(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1
  return slot >= 0 && node.isInputConnected(slot)
}

/** Tell the page that the workflow may have changed, so that undo works and the workflow counts as changed. */
export function noteChange() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker
  if (tracker?.captureCanvasState) tracker.captureCanvasState()
  else tracker?.checkState?.()
}

/** What goes on for nodes: each with the function that ends it. */
const going = new Set()

// The page does not tell the nodes in a subgraph when all of the graph is replaced.
setInterval(() => [...going].filter(({ node }) => !isInGraph(node)).forEach(({ end }) => end()), CHECK_MILLISECONDS)

/**
 * Call `onChange(value)` whenever `read()`, compared as JSON, has changed, while the node is in a graph, and once when it
 * comes into one. It is checked four times a second, because front ends differ in which changes of widgets and wires they
 * report.
 */
export function watch(node, read, onChange) {
  let before
  const check = () => {
    const value = read()
    const text = JSON.stringify(value)
    if (text === before) return
    before = text
    onChange(value)
  }
  whileInGraph(node, () => {
    before = undefined
    const timer = setInterval(() => node.graph && !document.hidden && check(), CHECK_MILLISECONDS)
    return () => clearInterval(timer)
  })
  return check
}

/**
 * Call `start` when a node is added to a graph, and what it returns when the node is no longer there. Some nodes are never
 * added: to copy a node, the page makes another one and only reads it.
 */
export function whileInGraph(node, start) {
  let stop
  const begin = () => {
    stop ??= start()
    going.add(one)
  }
  const end = () => {
    going.delete(one)
    stop?.()
    stop = undefined
  }
  const one = { node, end }
  if (node.graph) begin()
  after(node, "onAdded", begin)
  after(node, "onRemoved", end)
}

function isInGraph({ graph }) {
  return !!graph && (graph === rootOf(graph) || wrappersOf(graph).some(isInGraph))
}

/** The nodes that represent a subgraph. */
export function wrappersOf(subgraph) {
  const root = rootOf(subgraph)
  const graphs = [root, ...(root.subgraphs?.values() ?? [])]
  return graphs.flatMap((graph) => graph.nodes.filter((node) => node.subgraph === subgraph))
}

function rootOf(graph) {
  return graph.rootGraph ?? app.rootGraph ?? app.graph
}

/** Call `action` after a node's own handler. */
export function after(node, name, action) {
  const before = node[name]
  node[name] = function (...given) {
    const returned = before?.apply(this, given)
    action(...given)
    return returned
  }
}

let connections = 0
api.addEventListener("reconnected", () => connections++)

/** How often the page has connected to the server again, perhaps to another one: what it answered may be different now. */
export function timesReconnected() {
  return connections
}

/**
 * Send a request to the server; `path` is under `/artv/`. Returns the JSON of the reply. Throws an Error with one
 * readable line.
 */
export async function ask(path, question) {
  const answer = await api.fetchApi(`/artv/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
  })
  const told = await answer.json().catch(() => ({}))
  if (!answer.ok) throw new Error(told.error ?? `${answer.status} ${answer.statusText}`)
  return told
}

/** The value of one of the page's settings, or undefined. */
export function setting(name) {
  return app.extensionManager?.setting?.get(name)
}

const translations = await api
  .fetchApi("/i18n")
  .then((answer) => answer.json())
  .catch(() => ({}))

/**
 * A text of this pack in the page's language, else in English: `locales/<language>/main.json`, under "artv". `{name}`
 * in it is replaced by `values.name`.
 */
export function text(key, values = {}) {
  const found = [setting("Comfy.Locale"), "en"].map((language) => look(translations[language]?.artv, key))
  const pattern = found.find((one) => typeof one === "string") ?? key
  return pattern.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole)
}

function look(table, key) {
  return key.split(".").reduce((inner, part) => inner?.[part], table)
}
