/** The settings that a checkpoint recommends, and what the samplers connected to a loader do with them. */

import { AUTO, isAuto } from "./automatic_text.js"
import { SAMPLER, isFed, sourceOf } from "./connections.js"
import { isWired, widgetOf } from "./page.js"

const ANCHOR = "ARTVAnchorFrame"
const NOISE = "ARTVNoiseAugment"
const OPTIONS = "ARTVSamplingOptions"
/** The sampler's input for each of these nodes, and the start of the keys of what is said of it. */
const WIRED_TO = { [ANCHOR]: "anchor", [NOISE]: "noise_augment", [OPTIONS]: "options" }
const SPEAKERS = { [SAMPLER]: "sampler", [ANCHOR]: "anchor", [NOISE]: "noise", [OPTIONS]: "options" }
/** The sampler's inputs for pictures, which decide on the size if it is automatic. */
const PICTURES = ["references", "keyframes"]

/**
 * Each setting with the widgets that decide on it, and the value that stands for the recommendation. `first`: shown
 * without being asked for.
 */
export const SETTINGS = [
  { name: "size", of: SAMPLER, takes: { width: AUTO, height: AUTO }, first: true },
  {
    name: "steps",
    of: SAMPLER,
    takes: { steps: AUTO },
    also: [{ of: OPTIONS, takes: { first_frame_steps: AUTO } }],
    first: true,
  },
  { name: "sampler_name", of: SAMPLER, takes: { sampler_name: "recommended" } },
  { name: "cfg", of: SAMPLER, takes: { cfg: AUTO }, also: [{ of: OPTIONS, takes: { cfg_by_frame: "" } }] },
  { name: "cfg_references", of: SAMPLER, takes: { cfg_references: AUTO } },
  { name: "cfg_anchor", of: SAMPLER, takes: { cfg_anchor: AUTO } },
  { name: "cfg_first_frame", of: SAMPLER, takes: { cfg_first_frame: AUTO } },
  { name: "reference_level", of: NOISE, takes: { reference_level: AUTO, reference_levels: "" } },
  { name: "anchor_level", of: NOISE, takes: { anchor_level: AUTO, anchor_levels: "" } },
  { name: "eta", of: OPTIONS, takes: { eta: AUTO } },
  { name: "return_to_anchor", of: ANCHOR, takes: { return_to_anchor: AUTO } },
]

/**
 * What the samplers do with a setting. `kind` is "alone" (no sampler is connected), "taken", "same" (set to the
 * recommended value), "wired" (something else decides, such as a wire) or "differs", with the other `values`. `text` is
 * the key of the text to show.
 */
export function stateOf(one, samplers, facts) {
  if (!samplers.length) return { kind: "alone" }
  const found = widgetsOf(one, samplers).filter(({ widget, value }) => !takes(widget.value, value))
  const wired = widgetsOf(one, samplers).some(({ node, widget }) => isWired(node, widget.name))
  const own = found.filter(({ node, widget }) => !isWired(node, widget.name))
  const others = own.filter(({ node, widget }) => !isRecommended(widget, one, facts) || changesFirst(node, widget, facts))
  const where = SPEAKERS[one.of]
  if (others.some(({ value }) => value === "")) return { kind: "differs", text: "noiseChanges" }
  if (others.length) return { kind: "differs", text: `${where}Has`, values: unique(others.map(({ widget }) => widget.value)) }
  if (wired) return { kind: "wired", text: "wired" }
  if (one.name === "size" && samplers.some(hasPictures)) return { kind: "wired", text: "ofPictures" }
  if (one.name === "eta" && facts.recommended.eta && samplers.some(hasNoEta)) return { kind: "wired", text: "noEta" }
  return own.length ? { kind: "same", text: `${where}Same` } : { kind: "taken", text: "taken" }
}

function isRecommended(widget, one, { size, recommended, first_frame_steps }) {
  const value = { width: size[0], height: size[1], first_frame_steps }[widget.name] ?? recommended[one.name]
  return widget.value === value || Number(widget.value) === value
}

/** Whether the steps typed in a sampler are also those of the first frame, which is to have more. */
function changesFirst(node, widget, { recommended, first_frame_steps: first }) {
  if (widget.name !== "steps" || first === recommended.steps) return false
  const options = optionsOf(node)
  return !options || (!isWired(options, "first_frame_steps") && takes(widgetOf(options, "first_frame_steps")?.value, AUTO))
}

/** Whether a sampler takes 0 for an automatic eta, because someone has chosen ddim. */
function hasNoEta(sampler) {
  const options = optionsOf(sampler)
  const isAutomatic = !options || takes(widgetOf(options, "eta")?.value, AUTO)
  return isAutomatic && !isWired(sampler, "sampler_name") && widgetOf(sampler, "sampler_name")?.value === "ddim"
}

function optionsOf(sampler) {
  const options = sourceOf(sampler, WIRED_TO[OPTIONS])
  return options?.comfyClass === OPTIONS ? options : undefined
}

function hasPictures(sampler) {
  return PICTURES.some((name) => isFed(sampler, name))
}

/** Whether a widget's value means the recommendation. */
function takes(value, sentinel) {
  if (sentinel === "") return !String(value ?? "").trim()
  return value === sentinel || (sentinel === AUTO && (isAuto(value) || Number(value) < 0))
}

/** The widgets that decide on a setting, each with its node and the value that stands for the recommendation. */
export function widgetsOf(one, samplers) {
  return [one, ...(one.also ?? [])].flatMap((place) => widgetsAt(place, samplers))
}

function widgetsAt(one, samplers) {
  const nodes = one.of === SAMPLER ? samplers : unique(samplers.map((node) => sourceOf(node, WIRED_TO[one.of])))
  return nodes
    .filter((node) => node?.comfyClass === one.of)
    .flatMap((node) => Object.entries(one.takes).map(([name, value]) => ({ node, widget: widgetOf(node, name), value })))
    .filter(({ widget }) => widget)
}

function unique(values) {
  return [...new Set(values)]
}
