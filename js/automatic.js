/**
 * Text boxes that say "auto", or "auto (4)" once it is known what the checkpoint recommends. People type numbers over
 * the word. The page saves and queues "auto" or the number. Workflows from earlier releases have 0 or -1 there, which become "auto".
 */

import { tidied } from "./automatic_text.js"
import { FIT_IMAGE, SAMPLER, feederOf, isFed, promotedOf, samplersOf } from "./connections.js"
import { factsFor, followFacts } from "./facts.js"
import { after, app, isWired, noteChange, setWidget, text, watch, whileInGraph, widgetOf } from "./page.js"

const KEY = "artv_auto" // in the options of an input, from the server
const SHOWN_MILLISECONDS = 6000

/** The boxes of all nodes. */
const known = new Set()

app.registerExtension({
  name: "ARTV.automatic",
  nodeCreated(node) {
    if (node.comfyClass === "ARTVAdaptModel") followFacts(node, () => {}) // it has no panel that would
    const boxes = boxesOf(node)
    if (boxes.length) new Boxes(node, boxes)
  },
  afterConfigureGraph() {
    for (const boxes of known) if (boxes.node.graph) boxes.tidyOutside()
  },
})

document.addEventListener("focusin", ({ target }) => {
  // So that typing replaces the word.
  if (target instanceof HTMLInputElement && target.closest("[data-node-id]") && /^(auto|all)( \(.*\))?$/.test(target.value))
    target.select()
})

/** The inputs of a node that can say "auto": `widget`, `spec` (how its text is read) and `kept` (what it means). */
function boxesOf(node) {
  const { required, optional } = node.constructor.nodeData?.input ?? {}
  return Object.entries({ ...required, ...optional })
    .map(([name, [, options]]) => ({ widget: widgetOf(node, name), spec: options?.[KEY] }))
    .filter(({ widget, spec }) => widget && spec)
    .map((box) => ({ ...box, kept: box.spec.word }))
}

class Boxes {
  constructor(node, boxes) {
    this.node = node
    this.boxes = boxes
    for (const box of boxes) box.widget.serializeValue = () => this.plain(box, String(box.widget.value), true)
    after(node, "onConfigure", () => this.takeSaved())
    after(node, "onSerialize", (saved) => this.savePlain(saved))
    watch(node, () => boxes.map((box) => this.stateOf(box)), () => this.refresh())
    whileInGraph(node, () => {
      known.add(this)
      return () => known.delete(this)
    })
  }

  stateOf(box) {
    const outside = promotedOf(this.node, box.widget.name).map((widget) => [widget.value, isEdited(widget)])
    const feeder = feederOf(this.node, box.widget.name)?.widgets?.[0]?.type
    return [box.widget.value, this.shown(box), isEdited(box.widget), outside, feeder]
  }

  /** The values of a workflow that was loaded, exactly as they are, but for those that stand for "auto". */
  takeSaved() {
    for (const box of this.boxes) {
      box.kept = tidied(box.widget.value, box.spec, false) ?? String(box.widget.value)
      box.widget.value = this.shown(box)
    }
  }

  savePlain(saved) {
    for (const box of this.boxes) {
      const plain = this.plain(box, box.kept, !isEdited(box.widget))
      const index = this.node.widgets.indexOf(box.widget)
      if (saved.widgets_values) saved.widgets_values[index] = plain
      if (saved.widgets_values_named) saved.widgets_values_named[box.widget.name] = plain
    }
  }

  /**
   * What a box means, as it is saved and queued: the word for "auto", or a number. If the text is neither, this is
   * `strange`: the value before when it is saved, and the typed text when it is queued, so that the server reports it.
   */
  plain({ widget, spec, kept }, strange, round) {
    const meant = widget.value === kept ? kept : (tidied(widget.value, spec, round) ?? strange)
    return Number.isNaN(Number(meant)) ? meant : Number(meant)
  }

  /** What a box shows while nobody types in it. */
  shown({ kept, spec }) {
    const number = kept === spec.word ? numbersFor(this.node)[spec.shows] : undefined
    return number === undefined ? kept : `${kept} (${readable(number)})`
  }

  refresh() {
    for (const box of this.boxes) {
      const { widget } = box
      if (isEdited(widget)) continue
      const isNew = widget.value !== this.shown(box) && this.take(box)
      if (widget.value !== this.shown(box)) setWidget(this.node, widget, this.shown(box))
      if (isNew) noteChange()
    }
    this.tidyOutside()
    this.node.graph?.setDirtyCanvas(true, true)
  }

  /** Boxes that a subgraph's node shows say "auto" without a number. A Primitive's box is one that people can type in. */
  tidyOutside() {
    for (const { widget, spec } of this.boxes) {
      for (const promoted of promotedOf(this.node, widget.name)) {
        const plain = tidied(promoted.value, spec, true) ?? spec.word
        if (!isEdited(promoted) && promoted.value !== plain) promoted.value = plain
      }
      const feeder = feederOf(this.node, widget.name)
      if (feeder?.type === "PrimitiveNode") giveBox(feeder)
    }
  }

  /** Keep what was typed, and return whether it is new. If it is neither a number nor "auto", say so and show the value before. */
  take(box) {
    const { widget, spec, kept } = box
    if (widget.value === kept) return false
    const plain = tidied(widget.value, spec, true)
    box.kept = plain ?? kept
    const typed = tidied(widget.value, spec, false)
    if (spec.step && plain !== null && plain !== typed)
      notice(text("automatic.rounded", { name: widget.label ?? widget.name, value: plain, step: spec.step, typed }))
    if (plain === null) notice(text("automatic.strange", { name: widget.label ?? widget.name, value: String(widget.value), word: spec.word }))
    return box.kept !== kept
  }
}

/** For an input that takes several types, the page gives a Primitive a widget of no kind, which nobody can use. */
function giveBox(primitive) {
  const [widget] = primitive.widgets ?? []
  if (!widget?.type.includes(",") || !primitive.removeWidget) return
  primitive.removeWidget(widget)
  primitive.addWidget("text", widget.name, String(widget.value), () => primitive.applyToGraph())
}

/** What is recommended to the samplers that a node is or feeds, or to a node that fits pictures, by name; without what differs or is not known. */
export function numbersFor(node) {
  const samplers = [SAMPLER, FIT_IMAGE].includes(node.comfyClass) ? [node] : samplersOf(node)
  const facts = factsFor(samplers)
  const tables = facts.map((one) => one && { width: one.size[0], height: one.size[1], ...one.recommended })
  const numbers = agreed(tables)
  if (samplers.some((sampler) => isFed(sampler, "references") || isFed(sampler, "keyframes"))) {
    delete numbers.width
    delete numbers.height
  }
  if (samplers.some((sampler) => widgetOf(sampler, "sampler_name")?.value !== "recommended")) delete numbers.eta
  return { ...numbers, ...agreed(samplers.map(framesOf)) }
}

function framesOf(sampler) {
  return isWired(sampler, "frames") ? undefined : { frames: widgetOf(sampler, "frames")?.value }
}

/** The entries that all tables share. */
function agreed(tables) {
  const entries = Object.entries(tables[0] ?? {})
  return Object.fromEntries(entries.filter(([name, value]) => tables.every((one) => one?.[name] === value)))
}

/** Whether someone is typing in a widget, on the node or in the page's side panel. */
function isEdited(widget) {
  const active = document.activeElement
  const writable = active instanceof HTMLInputElement || active instanceof HTMLTextAreaElement
  return writable && active.value === String(widget.value)
}

function notice(detail) {
  app.extensionManager?.toast?.add({ severity: "warn", summary: "ARTV", detail, life: SHOWN_MILLISECONDS })
}

function readable(number) {
  return Number(number.toPrecision(6))
}
