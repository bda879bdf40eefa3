/**
 * The panel in the loader: what the checkpoint draws, and which of its recommended settings the connected samplers use.
 * What is needed less is shown on demand.
 */

import { SETTINGS, stateOf, widgetsOf } from "./checkpoint_settings.js"
import { samplersOf } from "./connections.js"
import { followFacts } from "./facts.js"
import { addPanel, app, element, isWired, noteChange, setting, setWidget, text, watch } from "./page.js"

const LOADER = "ARTVLoader"
const LEAST_HEIGHT = 230 // for what is shown first
const NEW_SIZE = [420, 480]

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
    this.more = element("button", { type: "button", class: "artv-checkpoint-more", onclick: () => this.showAll(!this.all) })
    this.all = false
    addPanel(node, "artv_checkpoint", this.root, LEAST_HEIGHT)
    followFacts(node, (answer) => this.show(answer))
    watch(node, () => this.facts && this.states(), () => this.facts && this.showStates())
  }

  /** Show what the server knows, or the line that says why it knows nothing. */
  show({ facts, note, problem }) {
    this.facts = facts
    this.page.setAttribute("aria-label", text("checkpoint.title"))
    this.showAll(this.all)
    if (note) return this.showLine("artv-checkpoint-note", note)
    if (problem) return this.showLine("artv-checkpoint-warning", problem)
    if (!facts) return
    this.build()
    this.showStates()
  }

  showLine(kind, line) {
    this.page.replaceChildren(element("p", { class: kind, role: "status" }, line))
  }

  build() {
    this.rows = new Map(SETTINGS.map(({ name }) => [name, this.row(name)]))
    this.hint = element("p", { class: "artv-checkpoint-hint", role: "status" })
    const [size, ...others] = SETTINGS.map(({ name, first }) => listItem(this.rows.get(name), first))
    this.page.replaceChildren(
      ...whatItDraws(this.facts),
      ...this.facts.missing.map((part) => warning(missing(part, this.facts))),
      ...(this.facts.warning ? [warning(this.facts.warning)] : []),
      element("div", { class: "artv-checkpoint-heading" }, text("checkpoint.recommended")),
      element("ul", { class: "artv-checkpoint-settings" }, size, listItem(framesRow(this.facts), true), ...others),
      this.hint,
      factList(this.facts),
      this.more,
    )
  }

  /** Show everything, or only what is needed most. */
  showAll(all) {
    this.all = all
    this.page.toggleAttribute("data-all", all)
    this.more.textContent = text(all ? "checkpoint.less" : "checkpoint.more")
    this.more.setAttribute("aria-expanded", String(all))
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
      element("span", {}, label(name)),
      element("span", {}, recommendedValue(name, this.facts)),
      element("span"),
    )
  }

  /** For each setting, what the nodes connected to the loader do with it: see `stateOf`. */
  states() {
    const samplers = samplersOf(this.node)
    return SETTINGS.map((one) => stateOf(one, samplers, this.facts))
  }

  showStates() {
    const states = this.states()
    states.forEach((state, index) => showState(this.rows.get(SETTINGS[index].name), SETTINGS[index].name, state))
    const count = states.filter((state) => state.kind === "differs").length
    const key = states[0].kind === "alone" ? "alone" : count ? "how" : ""
    this.hint.textContent = key && text(`checkpoint.${key}`)
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

/** The name, and the words that the checkpoint knows. */
function whatItDraws({ name, vocabulary }) {
  const count = vocabulary.length
  const knows = count ? text("checkpoint.knows", { count }) : text("checkpoint.knowsAny")
  const title = element("div", { class: "artv-checkpoint-title" }, element("span", {}, name), element("span", {}, knows))
  const words = vocabulary.join(", ")
  return count ? [title, element("p", { class: "artv-checkpoint-words", title: words }, words)] : [title]
}

function framesRow({ segment_frames: frames, fps }) {
  const told = text("checkpoint.framesValue", { frames, fps, seconds: shown(frames / fps) })
  return element("div", { class: "artv-checkpoint-row artv-checkpoint-wide" },
    element("span", {}, text("checkpoint.frames")), element("span", {}, told))
}

/** The technical facts. */
function factList(facts) {
  const parts = Object.entries(facts.parameters)
    .map(([part, count]) => `${text(`checkpoint.parts.${part}`)} ${compact(count)}`)
  const rows = {
    file: `${text("checkpoint.megabytes", { megabytes: facts.megabytes.toFixed(1) })} · ${facts.dtypes.join(", ")}`,
    parameters: text("checkpoint.parametersValue", { count: compact(facts.parameters_together), parts: parts.join(", ") }),
    prediction: text("checkpoint.predictionValue", { prediction: facts.prediction, steps: facts.timesteps }),
    sees: text("checkpoint.seesValue", { references: facts.references, tokens: facts.anchor_tokens }),
  }
  const list = element("dl", { class: "artv-checkpoint-facts", "data-more": "" })
  for (const [name, value] of Object.entries(rows))
    list.append(element("dt", {}, text(`checkpoint.${name}`)), element("dd", {}, value))
  return list
}

function missing(part, facts) {
  const base = facts.trained_on ? text("checkpoint.baseNamed", { base: facts.trained_on }) : text("checkpoint.base")
  return text(`checkpoint.missing.${part}`, { base })
}

function warning(line) {
  return element("p", { class: "artv-checkpoint-warning" }, line)
}

/** What the checkpoint recommends for a setting, as text. The first frame may have another number of steps. */
function recommendedValue(name, { size, recommended, first_frame_steps: first }) {
  if (name === "size") return size.join(" x ")
  const value = shown(recommended[name])
  return name === "steps" && first !== recommended.steps ? text("checkpoint.stepsAndFirst", { steps: value, first }) : value
}

function listItem(row, first) {
  return element("li", first ? {} : { "data-more": "" }, row)
}

function label(name) {
  return text(name === "size" ? "checkpoint.size" : `checkpoint.settings.${name}`)
}

function showState(row, name, state) {
  const differs = state.kind === "differs"
  if (differs) row.parentElement.removeAttribute("data-more") // and it stays in sight, because it may have the focus
  const told = state.text ? text(`checkpoint.${state.text}`, { value: state.values?.map(shown).join(", ") }) : ""
  row.lastChild.textContent = told
  row.title = [label(name), told].filter(Boolean).join(": ")
  // A row that was just used keeps the focus, but cannot be reached with Tab any more.
  if (differs) set(row, { role: "button", tabindex: 0, "aria-label": text("checkpoint.takeOne", { setting: row.title }) })
  else set(row, { role: null, tabindex: row.hasAttribute("tabindex") ? -1 : null, "aria-label": null })
}

function set(target, attributes) {
  for (const [name, value] of Object.entries(attributes))
    if (value === null) target.removeAttribute(name)
    else target.setAttribute(name, value)
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
