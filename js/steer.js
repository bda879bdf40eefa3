/**
 * The controls of a run that goes on, in the sampler's panel: another prompt, the words that the model knows, pause, a
 * step back, stop. The timeline of the Multi-Prompt Scheduler shows what was said (timeline_steered.js).
 */

import { factsFor } from "./facts.js"
import { ask, element, text } from "./page.js"

const BACK_SECONDS = 1
const MOST_CHARACTERS = 2000

document.head.append(element("link", { rel: "stylesheet", href: new URL("./steer.css", import.meta.url).href }))

export class SteerControls {
  constructor(node) {
    this.node = node
    this.run = undefined
    this.vocabulary = ""
    this.field = element("input", {
      type: "text", class: "artv-steer-prompt", maxlength: MOST_CHARACTERS, placeholder: text("steer.prompt"),
      "aria-label": text("steer.prompt"), onkeydown: (event) => this.key(event), oninput: () => this.complain(),
    })
    this.words = element("select", {
      class: "artv-steer-words", title: text("steer.words"), "aria-label": text("steer.words"), onchange: () => this.addWord(),
    })
    this.pause = this.button("pause", () => this.send({ pause: !this.run.steering.paused }))
    this.back = this.button("back", () => this.send(this.step()))
    this.stop = this.button("stop", () => this.send({ stop: true }))
    this.told = element("div", { class: "artv-steer-told", role: "status" })
    this.said = element("div", { class: "artv-steer-line" }, this.field, this.words)
    const buttons = element("div", { class: "artv-steer-line" }, this.pause, this.back, this.stop, this.told)
    this.root = element("div", { class: "artv-steer", role: "group", "aria-label": text("steer.title"), hidden: true }, this.said, buttons)
    this.root.addEventListener("keydown", (event) => event.stopPropagation()) // or the page takes letters for its shortcuts
  }

  button(name, onclick) {
    return element("button", { type: "button", class: `artv-steer-${name}`, title: text(`steer.${name}Help`), onclick }, text(`steer.${name}`))
  }

  /** Show the state of a run; undefined for none. */
  show(run) {
    if (run?.id !== this.run?.id) this.complain(undefined)
    this.run = run
    const { steering } = run ?? {}
    const goesOn = run?.state === "running" && steering !== undefined && "paused" in steering
    this.root.hidden = !goesOn
    if (!goesOn) return
    this.said.hidden = !steering.can_say
    this.pause.textContent = text(steering.paused ? "steer.goOn" : "steer.pause")
    this.pause.setAttribute("aria-pressed", String(steering.paused))
    this.back.disabled = this.mostBack() < 1
    this.showWords()
    this.tell(this.problem ?? stateOf(steering))
  }

  /** The words of models with a closed vocabulary. */
  showWords() {
    const found = factsFor([this.node]).find((facts) => facts?.vocabulary.length)
    const vocabulary = found?.vocabulary.join(" ") ?? ""
    this.words.hidden = !vocabulary
    if (vocabulary === this.vocabulary) return
    this.vocabulary = vocabulary
    const options = vocabulary.split(" ").map((word) => element("option", { value: word }, word))
    this.words.replaceChildren(element("option", { value: "" }, text("steer.wordsMenu")), ...options)
  }

  addWord() {
    const { value } = this.field
    const space = value && !value.endsWith(" ") ? " " : ""
    this.field.value = value + space + this.words.value
    this.words.value = ""
    this.field.focus()
  }

  key(event) {
    if (event.key === "Enter" && !event.isComposing) this.say()
    if (event.key === "Escape") this.field.value = ""
  }

  async say() {
    const said = this.field.value
    if (!said.trim()) return this.complain(text("steer.empty"))
    if (await this.send({ say: said })) this.field.value = this.field.value === said ? "" : this.field.value
  }

  /** Back by a second, or to the first frame that can be made again. */
  step() {
    return { back: Math.max(1, Math.min(Math.round(BACK_SECONDS * this.run.fps), this.mostBack())) }
  }

  mostBack() {
    return this.run.done - this.run.steering.first
  }

  /** Ask the server. Returns whether it did what was asked. */
  async send(question) {
    const answer = await ask("steer", { run: this.run.id, ...question }).catch((error) => error)
    const refused = answer instanceof Error
    this.complain(refused ? answer.message : undefined)
    if (!refused) this.tell(stateOf(answer))
    return !refused
  }

  /** Say what is wrong, until something is typed or sent; undefined: nothing is. */
  complain(problem) {
    this.problem = problem
    this.root.classList.toggle("artv-steer-refused", problem !== undefined)
    if (problem !== undefined) this.tell(problem)
  }

  tell(line) {
    if (this.told.textContent !== line) this.told.textContent = line
    this.told.title = line
  }
}

function stateOf({ can_say, paused, stopped, waiting, redo }) {
  if (stopped) return text("steer.stopping")
  if (waiting) return text("steer.waiting", { text: waiting })
  if (redo.length) return text("steer.redo", { lines: redo.map(([frame, seed]) => `${frame}: ${seed}`).join(", ") })
  if (paused) return text("steer.paused")
  return can_say ? "" : text("steer.fixed")
}
