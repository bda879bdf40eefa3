/** The panel in the sampler: the video so far, played in a loop while it is made, with its masks and its drift. */

import { addPanel, app, ask, element, text, watch, whileInGraph, widen } from "./page.js"
import { onRuns, refusal, refuse, rootGraph, runOf } from "./live_runs.js"
import { textsAt } from "./prompt_texts.js"
import { SteerControls } from "./steer.js"
import { untaken } from "./timeline_steered.js"
import { followWords, wordsLine } from "./words.js"

const NODE = "ARTVMaskedDiffusionSampler"
const WIDTH = 380
const HEIGHT = 330
const LOOP_SECONDS = 20
const SHORTEST_TICK = 40
const SMOOTH_FROM = 160 // pixels; smaller videos are shown without smoothing

app.registerExtension({
  name: "ARTV.livePanel",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return
    new LivePanel(node)
    widen(node, WIDTH)
  },
})

class LivePanel {
  constructor(node) {
    this.node = node
    this.run = undefined
    this.drawn = undefined // the picture on the stage
    this.foundWords = undefined // what `followWords` found
    this.frame = 0 // the frame to show
    this.playing = true
    this.build()
    addPanel(node, "artv_live", this.root, HEIGHT)
    watch(node, () => [rootGraph()?.id, node.id], () => this.follow())
    watch(node, refusal, (faults) => refuse(node, faults))
    followWords(node, () => textsAt(node), (found) => {
      this.foundWords = found
      this.showWords()
    })
    watch(node, () => untaken(node), (prompts) => this.showUntaken(prompts))
    whileInGraph(node, () => this.start())
  }

  /** Returns a function that ends it. */
  start() {
    this.tellOfCopies()
    const stop = onRuns(() => this.follow())
    this.timer = setTimeout(() => this.tick(), SHORTEST_TICK)
    return () => {
      clearTimeout(this.timer)
      stop()
    }
  }

  build() {
    this.status = element("div", { class: "artv-live-status" })
    this.copies = element("div", { class: "artv-live-copies", role: "alert", hidden: true })
    this.problem = element("div", { class: "artv-live-problem", role: "alert", hidden: true })
    this.sizeAdvice = element("div", { class: "artv-live-size", role: "status", hidden: true })
    this.picture = element("canvas", { class: "artv-live-picture", role: "img", "aria-label": text("live.picture") })
    this.mask = element("canvas", { class: "artv-live-mask", hidden: true, "aria-hidden": "true" })
    this.advice = element("div", { class: "artv-live-advice" })
    this.stage = element("div", { class: "artv-live-stage" }, this.picture, this.mask, this.advice)
    this.play = element("button", { type: "button", class: "artv-live-play", onclick: () => this.setPlaying(!this.playing) })
    this.scrubber = element("input", {
      type: "range", min: 0, max: 0, step: 1, value: 0, class: "artv-live-scrubber",
      "aria-label": text("live.scrub"), oninput: () => this.scrub(Number(this.scrubber.value)),
    })
    this.shown = element("output", { class: "artv-live-shown" })
    this.masks = element("input", { type: "checkbox", onchange: () => this.show() })
    const label = element("label", { class: "artv-live-switch", title: text("live.maskHelp") }, this.masks, text("live.mask"))
    const controls = element("div", { class: "artv-live-controls" }, this.play, this.scrubber, this.shown, label)
    this.curve = svg("polyline", { class: "artv-live-line" })
    this.marker = svg("line", { class: "artv-live-marker", y1: 0, y2: 100 })
    const plot = svg("svg", { class: "artv-live-plot", viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" })
    plot.append(this.curve, this.marker)
    this.drift = element("div", { class: "artv-live-drift", title: text("live.driftHelp") })
    this.steer = new SteerControls(this.node)
    this.prompts = element("textarea", { readonly: true, rows: 3, onfocus: () => this.prompts.select() })
    this.untaken = element("label", { class: "artv-live-untaken", hidden: true }, text("live.untaken"), this.prompts)
    this.root = element("div", { class: "artv-live", role: "group", "aria-label": text("live.title") },
      this.copies, this.status, this.problem, this.sizeAdvice, this.steer.root, this.untaken, this.stage, controls, plot, this.drift)
    this.root.addEventListener("keydown", keepKeys)
    this.stage.before((this.words = element("div", { class: "artv-words", role: "status", hidden: true })))
    this.setPlaying(true)
  }

  /** Warn if the host has loaded this pack more than once, because the page may then ask a copy that is not in use. */
  async tellOfCopies() {
    const { used, others } = await ask("copies", {}).catch(() => ({}))
    if (!used) return
    this.copies.textContent = text("live.copies", { used, others: others.join(", ") })
    this.copies.hidden = false
  }

  /** Show the current state of the node's run. */
  follow() {
    const run = runOf(this.node)
    if (run !== this.run) {
      this.run = run
      this.frame = 0
      this.drawn = null // removes the last run's picture if this run has none
      this.setPlaying(true)
    }
    this.describe()
    this.show()
  }

  describe() {
    const run = this.run
    this.root.dataset.state = run?.shownState ?? "empty"
    this.root.dataset.done = run?.done ?? 0
    this.root.dataset.pictures = run?.pictures.items.length ?? 0
    this.status.textContent = run ? statusOf(run) : ""
    this.problem.textContent = run ? problemOf(run) : ""
    this.problem.hidden = !this.problem.textContent
    this.sizeAdvice.textContent = run?.sizeAdvice ? adviceOn(run) : ""
    this.sizeAdvice.hidden = !run?.sizeAdvice
    const isBlind = run?.blind && run.done > 0 && !run.pictures.items.some((one) => one.jpeg)
    this.advice.textContent = run ? (isBlind ? text(`live.blind.${run.blind}`) : "") : text("live.empty")
    this.scrubber.max = Math.max(0, (run?.done ?? 0) - 1)
    this.drawCurve()
    this.showWords()
    this.steer.show(run)
  }

  /** Words that the model does not know: of the prompts in the graph, or else of the run if the page cannot read those. */
  showWords() {
    const found = this.foundWords
    this.words.textContent = found?.line ?? wordsLine(this.run?.unknown)
    this.words.title = found?.help ?? ""
    this.words.hidden = !this.words.textContent
  }

  /** Show prompts that are in no timeline, to be copied; "" if there are none. */
  showUntaken(prompts) {
    this.prompts.value = prompts
    this.untaken.hidden = !prompts
  }

  setPlaying(playing) {
    this.playing = playing
    this.play.textContent = playing ? "❚❚" : "▶"
    this.play.setAttribute("aria-label", text(playing ? "live.pause" : "live.play"))
    this.play.title = text(playing ? "live.pause" : "live.play")
  }

  scrub(frame) {
    this.setPlaying(false)
    this.frame = frame
    this.show()
  }

  /** Move to the next frame if the panel is visible. Long videos play faster, so that a loop never takes too long. */
  tick() {
    const run = this.run
    const step = run ? Math.max(1, run.done / run.fps / LOOP_SECONDS) : 1
    const pause = run ? (1000 / run.fps) * Math.max(1, (SHORTEST_TICK * run.fps) / 1000) : 250
    this.timer = setTimeout(() => this.tick(), pause)
    if (!run?.done || !this.playing || document.hidden || !this.root.checkVisibility()) return
    this.frame = this.frame + step >= run.done ? 0 : this.frame + step
    this.show()
  }

  /** Show the frame: the latest picture that is not after it. */
  show() {
    const run = this.run
    const frame = Math.min(Math.floor(this.frame), Math.max(0, (run?.done ?? 0) - 1))
    if (document.activeElement !== this.scrubber || this.playing) this.scrubber.value = frame
    const picture = run?.at(frame)
    this.shown.textContent = picture ? text("live.shown", { frame: picture.index }) : ""
    this.stage.dataset.frame = picture?.index ?? ""
    this.describeDrift(frame)
    this.showMask(picture)
    if (picture !== this.drawn) this.draw(picture)
  }

  async draw(picture) {
    this.drawn = picture
    this.picture.hidden = !picture?.jpeg
    if (!picture?.jpeg) return
    const bitmap = await createImageBitmap(picture.jpeg).catch(() => null)
    if (!bitmap) return
    if (this.drawn === picture) {
      fit(this.picture, bitmap.width, bitmap.height)
      this.picture.classList.toggle("artv-live-squares", bitmap.width < SMOOTH_FROM)
      this.picture.getContext("2d").drawImage(bitmap, 0, 0)
    }
    bitmap.close()
  }

  showMask(picture) {
    const mask = this.masks.checked ? picture?.mask : undefined
    this.mask.hidden = !mask
    if (!mask || this.mask.drawn === mask) return
    this.mask.drawn = mask
    fit(this.mask, mask.width, mask.height)
    const pixels = new ImageData(mask.width, mask.height)
    mask.values.forEach((value, place) => pixels.data.set([255, 0, 160, value * 0.6], 4 * place))
    this.mask.getContext("2d").putImageData(pixels, 0, 0)
  }

  drawCurve() {
    const readings = this.run?.readings.items ?? []
    const last = Math.max(1, (this.run?.done ?? 1) - 1)
    const highest = Math.max(1e-6, ...readings.map((one) => one.shift))
    const points = readings.map((one) => `${(1000 * one.index) / last},${97 - (94 * one.shift) / highest}`)
    this.curve.setAttribute("points", points.join(" "))
  }

  describeDrift(frame) {
    const reading = this.run?.readingAt(frame)
    const place = (1000 * frame) / Math.max(1, (this.run?.done ?? 1) - 1)
    this.marker.setAttribute("x1", place)
    this.marker.setAttribute("x2", place)
    this.marker.style.display = reading ? "" : "none"
    this.drift.textContent = reading
      ? text("live.drift", {
          shift: reading.shift.toFixed(3),
          sharpness: Math.round(100 * reading.sharpness),
          copied: Math.round(100 * reading.copied),
        })
      : ""
  }
}

function statusOf(run) {
  const values = {
    done: run.done,
    total: run.total,
    pace: run.pace === null ? "" : run.pace.toFixed(run.pace < 10 ? 2 : 1),
    left: duration(run.left),
  }
  const told = text(`live.${kindOf(run)}`, values)
  return run.videos > 1 ? `${told} · ${text("live.firstOf", run)}` : told
}

function problemOf({ problem, refusal }) {
  return [problem, refusal && text("live.notQueued", { problem: refusal })].filter(Boolean).join("\n")
}

function adviceOn({ width, height, sizeAdvice: { given, made_for: best } }) {
  return text(given ? "live.sizeGiven" : "live.sizeTyped", { size: `${width}x${height}`, best: best.join("x") })
}

function kindOf(run) {
  if (run.shownState === "cached") return run.id ? "cached" : "cachedUnknown"
  return run.state === "running" && run.pace === null ? "starting" : run.state
}

/** Text such as "8 s", "3 min 20 s", "2 h 5 min". */
function duration(seconds) {
  const whole = Math.ceil(seconds ?? 0)
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  if (hours) return text("live.hours", { hours, minutes })
  return minutes ? text("live.minutes", { minutes, seconds: rest }) : text("live.seconds", { seconds: rest })
}

function fit(canvas, width, height) {
  if (canvas.width !== width) canvas.width = width
  if (canvas.height !== height) canvas.height = height
}

/** Keep keys that the controls use away from the page, where Delete removes the node and space moves the canvas. */
function keepKeys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  if (/^(Arrow|Page|Home|End| |Enter|Delete|Backspace)/.test(event.key)) event.stopPropagation()
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  return made
}
