/**
 * The panel in the loader: what is in the checkpoint, and which of its recommended settings the connected samplers use.
 */

import { AUTO, isAuto } from "./automatic_text.js"
import { SAMPLER, samplersOf, sourceOf } from "./connections.js"
import { followFacts } from "./facts.js"
import { addPanel, app, element, isWired, noteChange, setting, setWidget, text, watch, widgetOf } from "./page.js"

const LOADER = "ARTVLoader"
const NOISE = "ARTVNoiseAugment"
const OPTIONS = "ARTVSamplingOptions"
/** The sampler's input for each of these nodes, and the start of the keys of what is said of it. */
const WIRED_TO = { [NOISE]: "noise_augment", [OPTIONS]: "options" }
const SPEAKERS = { [SAMPLER]: "sampler", [NOISE]: "noise", [OPTIONS]: "options" }
const LEAST_HEIGHT = 200
const NEW_SIZE = [420, 530]

/** Each setting with the widgets that decide on it, and the value that stands for the recommendation. */
const SETTINGS = [
  { name: "steps", of: SAMPLER, takes: { steps: AUTO } },
  { name: "sampler_name", of: SAMPLER, takes: { sampler_name: "recommended" } },
  { name: "cfg", of: SAMPLER, takes: { cfg: AUTO }, also: [{ of: OPTIONS, takes: { cfg_by_frame: "" } }] },
  { name: "cfg_references", of: SAMPLER, takes: { cfg_references: AUTO } },
  { name: "cfg_anchor", of: SAMPLER, takes: { cfg_anchor: AUTO } },
  { name: "cfg_first_frame", of: SAMPLER, takes: { cfg_first_frame: AUTO } },
  { name: "reference_level", of: NOISE, takes: { reference_level: AUTO, reference_levels: "" } },
  { name: "anchor_level", of: NOISE, takes: { anchor_level: AUTO, anchor_levels: "" } },
  { name: "eta", of: OPTIONS, takes: { eta: AUTO } },
]

document.head.append(
  element("link", { rel: "stylesheet", href: new URL("./checkpoint.css", import.meta.url).href }),
)

app.registerExtension({
  name: "ARTV.checkpoint",
  nodeCreated(node) {
    if (node.comfyClass !== LOADER) return
    addToMenu(node, new CheckpointPanel(node))
    node.setSize([...NEW_SIZE])
  },
})

class CheckpointPanel {
  constructor(node) {
    this.node = node
    this.facts = undefined // what the server knows about the file, or undefined
    this.page = element("div", { class: "artv-checkpoint-page", tabindex: 0, role: "group" })
    this.root = element("div", { class: "artv-checkpoint" }, this.page)
    addPanel(node, "artv_checkpoint", this.root, LEAST_HEIGHT)
    followFacts(node, (answer) => this.show(answer))
    watch(node, () => this.facts && this.states(), () => this.facts && this.showStates())
  }

  /** Show what the server knows, or the line that says why it knows nothing. */
  show(answer) {
    this.facts = typeof answer === "string" ? undefined : answer
    if (!answer) return
    if (!this.facts) return this.showLine(answer)
    this.build()
    this.showStates()
  }

  showLine(line) {
    this.page.setAttribute("aria-label", text("checkpoint.title"))
    this.page.replaceChildren(element("p", { class: "artv-checkpoint-warning", role: "status" }, line))
  }

  build() {
    this.rows = new Map(SETTINGS.map(({ name }) => [name, this.row(name)]))
    this.hint = element("p", { class: "artv-checkpoint-hint", role: "status" })
    this.page.setAttribute("aria-label", text("checkpoint.title"))
    this.page.replaceChildren(
      title(this.facts),
      factList(this.facts),
      ...this.facts.missing.map((part) => warning(part, this.facts)),
      element("div", { class: "artv-checkpoint-heading" }, text("checkpoint.recommended")),
      element("ul", { class: "artv-checkpoint-settings" }, ...[...this.rows.values()].map(listItem)),
      this.hint,
    )
  }

  row(name) {
    const take = (event) => {
      if (event.currentTarget.getAttribute("role") !== "button") return
      if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return
      event.preventDefault()
      event.stopPropagation()
      this.take([name])
    }
    return element("div", { class: "artv-checkpoint-row", onclick: take, onkeydown: take },
      element("span", {}, text(`checkpoint.settings.${name}`)),
      element("span", {}, shown(this.facts.recommended[name])),
      element("span"),
    )
  }

  /** For each setting, what the nodes connected to the loader do with it: see `stateOf`. */
  states() {
    const samplers = samplersOf(this.node)
    return SETTINGS.map((one) => stateOf(one, samplers, this.facts.recommended[one.name]))
  }

  showStates() {
    const states = this.states()
    states.forEach((state, index) => showState(this.rows.get(SETTINGS[index].name), SETTINGS[index].name, state))
    const count = states.filter((state) => state.kind === "differs").length
    const key = states[0].kind === "alone" ? "alone" : count ? "how" : "allTaken"
    this.hint.textContent = text(`checkpoint.${key}`)
  }

  /** Whether a sampler has a value that differs from the recommendation. */
  differs() {
    return !!this.facts && this.states().some((state) => state.kind === "differs")
  }

  /** Set these settings, by name, to the recommendation in all connected nodes. */
  take(names) {
    const samplers = samplersOf(this.node)
    for (const one of SETTINGS.filter(({ name }) => names.includes(name)))
      for (const { node, widget, value } of widgetsOf(one, samplers))
        if (!isWired(node, widget.name) && widget.value !== value) setWidget(node, widget, value)
    this.node.graph?.setDirtyCanvas(true, true)
    noteChange()
    this.showStates()
  }
}

function title(facts) {
  const size = text("checkpoint.megabytes", { megabytes: facts.megabytes.toFixed(1) })
  return element("div", { class: "artv-checkpoint-title" },
    element("span", {}, facts.name), element("span", {}, `${size} · ${facts.dtypes.join(", ")}`))
}

function factList(facts) {
  const parts = Object.entries(facts.parameters)
    .map(([part, count]) => `${text(`checkpoint.parts.${part}`)} ${compact(count)}`)
  const [width, height] = facts.size
  const rows = {
    trained: text("checkpoint.trainedValue", { width, height, fps: facts.fps, frames: facts.segment_frames }),
    parameters: text("checkpoint.parametersValue", { count: compact(facts.parameters_together), parts: parts.join(", ") }),
    prediction: text("checkpoint.predictionValue", { prediction: facts.prediction, steps: facts.timesteps }),
    sees: text("checkpoint.seesValue", { references: facts.references, tokens: facts.anchor_tokens }),
  }
  const list = element("dl", { class: "artv-checkpoint-facts" })
  for (const [name, value] of Object.entries(rows))
    list.append(element("dt", {}, text(`checkpoint.${name}`)), element("dd", {}, value))
  const words = facts.vocabulary.join(", ") || text("checkpoint.openVocabulary")
  list.append(element("dt", {}, text("checkpoint.words")),
    element("dd", { class: "artv-checkpoint-words", tabindex: 0, "aria-label": text("checkpoint.words") }, words))
  return list
}

function warning(part, facts) {
  const base = facts.trained_on ? text("checkpoint.baseNamed", { base: facts.trained_on }) : text("checkpoint.base")
  return element("p", { class: "artv-checkpoint-warning" }, text(`checkpoint.missing.${part}`, { base }))
}

function listItem(row) {
  return element("li", {}, row)
}

function showState(row, name, state) {
  const differs = state.kind === "differs"
  const told = state.text ? text(`checkpoint.${state.text}`, { value: state.values?.map(shown).join(", ") }) : ""
  row.lastChild.textContent = told
  row.title = [text(`checkpoint.settings.${name}`), told].filter(Boolean).join(": ")
  // A row that was just used keeps the focus, but cannot be reached with Tab any more.
  if (differs) set(row, { role: "button", tabindex: 0, "aria-label": text("checkpoint.takeOne", { setting: row.title }) })
  else set(row, { role: null, tabindex: row.hasAttribute("tabindex") ? -1 : null, "aria-label": null })
}

function set(target, attributes) {
  for (const [name, value] of Object.entries(attributes))
    if (value === null) target.removeAttribute(name)
    else target.setAttribute(name, value)
}

/**
 * `kind` is "alone" (no sampler is connected), "taken", "same" (set to the recommended value), "wired" (a wire provides
 * the value) or "differs", with the other `values`. `text` is the key of the text to show.
 */
function stateOf(one, samplers, recommended) {
  if (!samplers.length) return { kind: "alone" }
  const found = widgetsOf(one, samplers).filter(({ widget, value }) => !takes(widget.value, value))
  const wired = widgetsOf(one, samplers).some(({ node, widget }) => isWired(node, widget.name))
  const own = found.filter(({ node, widget }) => !isWired(node, widget.name))
  const others = own.filter(({ widget }) => widget.value !== recommended && Number(widget.value) !== recommended)
  const where = SPEAKERS[one.of]
  if (others.some(({ value }) => value === "")) return { kind: "differs", text: "noiseChanges" }
  if (others.length) return { kind: "differs", text: `${where}Has`, values: unique(others.map(({ widget }) => widget.value)) }
  if (wired) return { kind: "wired", text: "wired" }
  return own.length ? { kind: "same", text: `${where}Same` } : { kind: "taken", text: "taken" }
}

/** Whether a widget's value means the recommendation. */
function takes(value, sentinel) {
  if (sentinel === "") return !String(value ?? "").trim()
  return value === sentinel || (sentinel === AUTO && (isAuto(value) || Number(value) < 0))
}

/** The widgets that decide on a setting, each with its node and the value that stands for the recommendation. */
function widgetsOf(one, samplers) {
  return [one, ...(one.also ?? [])].flatMap((place) => widgetsAt(place, samplers))
}

function widgetsAt(one, samplers) {
  const nodes = one.of === SAMPLER ? samplers : unique(samplers.map((node) => sourceOf(node, WIRED_TO[one.of])))
  return nodes
    .filter((node) => node?.comfyClass === one.of)
    .flatMap((node) => Object.entries(one.takes).map(([name, value]) => ({ node, widget: widgetOf(node, name), value })))
    .filter(({ widget }) => widget)
}

function addToMenu(node, panel) {
  const before = node.getExtraMenuOptions
  node.getExtraMenuOptions = function (canvas, options) {
    const given = before?.call(this, canvas, options)
    options.unshift({
      content: text("checkpoint.takeAll"),
      disabled: !panel.differs(),
      callback: () => panel.take(SETTINGS.map(({ name }) => name)),
    })
    return given
  }
}

function compact(count) {
  return new Intl.NumberFormat(setting("Comfy.Locale") ?? "en", { notation: "compact", maximumSignificantDigits: 3 }).format(count)
}

/** A value in readable form: 7.5, not 7.500000001. */
function shown(value) {
  return typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value)
}

function unique(values) {
  return [...new Set(values)]
}
