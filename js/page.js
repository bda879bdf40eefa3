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

/**
 * Call `onChange(value)` whenever `read()`, compared as JSON, has changed, while the node is in a graph. It is checked
 * four times a second, because front ends differ in which changes of widgets and wires they report.
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
    const timer = setInterval(() => node.graph && !document.hidden && check(), CHECK_MILLISECONDS)
    return () => clearInterval(timer)
  })
  return check
}

/**
 * Call `start` when a node is added to a graph, and what it returns when the node is removed. Some nodes are never added:
 * to copy a node, the page makes another one and only reads it.
 */
export function whileInGraph(node, start) {
  let stop = node.graph ? start() : undefined
  const before = node.onAdded
  node.onAdded = function (...given) {
    before?.apply(this, given)
    stop ??= start()
  }
  onRemoved(node, () => {
    stop?.()
    stop = undefined
  })
}

/** Call `action` when a node is removed, after the host's own handler. */
export function onRemoved(node, action) {
  const before = node.onRemoved
  node.onRemoved = function (...given) {
    before?.apply(this, given)
    action()
  }
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
