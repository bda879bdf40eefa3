/** The texts of the prompts that reach a sampler, as far as the page can read them before a run. */

import { originOf } from "./connections.js"
import { isWired, widgetOf } from "./page.js"

const PROMPTS = ["positive", "negative"]
const PRIMITIVES = /^Primitive(Node|String|StringMultiline|Int|Float)$/
const BYPASSED = 4

/** What the timelines have read: the prompts of each scheduler. */
const scheduled = new WeakMap()

/** Note the prompts of a scheduler; null if its text cannot be read. */
export function noteScheduled(scheduler, texts) {
  scheduled.set(scheduler, texts)
}

/** The texts that reach a sampler; null if one of them comes from a node that the page cannot look into. */
export function textsAt(sampler) {
  return together(PROMPTS.map((name) => textsInto(sampler, name, new Set())))
}

/** The texts that a scheduler puts around its prompts. */
export function textsAround(scheduler) {
  return together(["pre_text", "app_text"].map((name) => one(valueOf(scheduler, name))))
}

/** The text or number of an input: of its widget, or of the Primitive that feeds it; undefined if another node does. */
export function valueOf(node, name) {
  if (!isWired(node, name)) return widgetOf(node, name)?.value
  const origin = originOf(node, name)
  if (origin?.widget) return origin.widget.value
  if (PRIMITIVES.test(origin?.node.type ?? "")) return origin.node.widgets?.[0]?.value
}

function textsInto(node, name, seen) {
  const origin = originOf(node, name)
  if (origin === null) return []
  return origin?.node ? textsOf(origin.node, seen) : null
}

function textsOf(node, seen) {
  if (seen.has(node)) return []
  seen.add(node)
  if (scheduled.has(node) && node.mode !== BYPASSED) return scheduled.get(node)
  const inputs = node.inputs ?? []
  const before = inputs.filter((input) => input.type === "CONDITIONING")
  if (before.length) return together(before.map((input) => textsInto(node, input.name, seen)))
  const boxes = (node.widgets ?? []).filter((widget) => widget.type === "customtext" && typeof widget.value === "string")
  if (node.mode === BYPASSED || !boxes.length || !inputs.some((input) => input.type === "CLIP")) return null
  return together(boxes.map((box) => one(valueOf(node, box.name))))
}

function one(text) {
  return typeof text === "string" ? [text] : null
}

function together(lists) {
  return lists.includes(null) ? null : lists.flat()
}
