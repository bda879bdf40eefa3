/** The page of `artv play`: shows the video while it is made, and sends what the person who watches says. */

import { Stage } from "./stage.js"

const TURNS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }
const REPLACED = 4001 // the page was opened elsewhere
const AGAIN_MILLISECONDS = 1000
const CHECK_MILLISECONDS = 150
const FRAME_PIXELS = 3 // of the strip, for each frame

const $ = (id) => document.getElementById(id)
const field = /** @type {HTMLInputElement} */ ($("prompt"))
const stage = new Stage($("picture"), (index, take) => {
  send({ do: "shown", index, take })
  showClock()
})
let socket = null
let about = null
let status = null
let prompts = []
let edited = false // the field has what was typed, not what counts
let checking = 0

connect()

// What is sent

function connected() {
  return socket?.readyState === WebSocket.OPEN
}

function send(message) {
  if (connected()) socket.send(JSON.stringify(message))
}

function connect() {
  socket = new WebSocket(`ws://${location.host}/socket`)
  socket.binaryType = "arraybuffer"
  socket.onmessage = ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : stage.receive(data))
  socket.onclose = ({ code }) => {
    if (code === REPLACED) return veil("This video is shown in another page now. Reload to bring it here.")
    veil("The program has ended or cannot be reached. To go on with this video: artv play --resume")
    setTimeout(connect, AGAIN_MILLISECONDS)
  }
}

function say() {
  const text = field.value.trim()
  const most = about?.most_characters ?? 2000
  if (!text) return note("say", "The prompt is empty. Write what the video should show next.", "problem")
  if (text.length > most) return note("say", `The prompt has ${text.length} characters; it can have ${most}.`, "problem")
  if (!connected()) return note("say", "The prompt was not sent, because there is no connection to the program.", "problem")
  edited = true // until it is taken, nothing else comes into the field
  send({ do: "say", text })
  field.blur()
}

function pause() {
  const on = !stage.paused
  stage.pause(on)
  send({ do: "pause", on })
  showPaused()
}

function turn(direction) {
  if (about?.directions) send({ do: "turn", direction })
}

// What is heard

const HEARD = {
  hello: (message) => {
    about = message
    status = null
    stage.prepare(message)
    veil("The first frames are being made …")
    $("model").textContent = `${about.model} · ${about.width}×${about.height} · ${about.fps} frames a second · ${about.steps} steps`
    $("back").firstElementChild.textContent = `Back ${about.back_seconds} s`
    $("directions").hidden = !about.directions
    $("picture").style.aspectRatio = `${about.width} / ${about.height}`
    showWords()
  },
  status: (message) => {
    const isNew = !status
    status = message
    if (isNew) stage.pause(status.paused) // later the page decides
    stage.begin(status.take)
    if (!edited && document.activeElement !== field) field.value = status.text
    showPaused()
    showPace()
    showClock()
    showSaved()
    showStrip()
  },
  prompts: (message) => {
    prompts = message.prompts
    showStrip()
  },
  answer: (answered) => {
    const { to, problem, advice = [] } = answered
    if (to === "check" && answered.text !== field.value) return // typed on since
    const isSaid = to === "say" || to === "turn"
    if (isSaid) note("check", "")
    note(to === "turn" ? "say" : to, problem ? sentence(problem) : advice.map(withStop).join(" "), problem ? "problem" : "advice")
    if (problem) return
    if (to === "turn") field.value = answered.text
    if (isSaid && field.value.trim() === answered.text) edited = false // else typed on since
    if (to !== "back") return
    note("say", "") // it was about frames that are dropped
    flash()
  },
}

function hear(message) {
  HEARD[message.kind]?.(message)
}

// What is shown

function veil(text) {
  $("veil").textContent = text
  $("veil").hidden = !text
}

/** One line for each kind of answer; an empty one goes. */
function note(kind, text, look = "advice") {
  const notes = $("notes")
  let line = notes.querySelector(`[data-kind="${kind}"]`)
  if (!text) return line?.remove()
  if (!line) notes.append((line = element("p", { "data-kind": kind })))
  line.className = look
  line.textContent = text
}

function showPaused() {
  $("pause").firstElementChild.textContent = stage.paused ? "Go on" : "Pause"
  $("pause").setAttribute("aria-pressed", String(stage.paused))
  document.body.classList.toggle("paused", stage.paused)
}

function showClock() {
  if (!about || stage.shown < 0) return
  if (connected()) veil("") // else it says why there is none; the last pictures are still shown
  const total = about.total ? ` (the last is ${about.total - 1})` : ""
  $("clock").textContent = `${time((stage.shown + 1) / about.fps)} · frame ${stage.shown}${total}`
}

function showPace() {
  let text = ""
  if (status.failed) text = `The video has stopped. ${sentence(status.failed)}`
  else if (status.ended && stage.shown + 1 >= about.total) text = "The video has ended. R goes back two seconds."
  else if (!status.keeps_up)
    text = `This computer makes ${status.rate} frames a second; the video has ${about.fps}. It is shown as fast as it is made.`
  $("pace").textContent = text
  $("pace").className = status.failed ? "problem" : ""
  $("pace").title = "Fewer steps (artv play --steps) or a smaller size (--width, --height) make it faster."
}

function showSaved() {
  const saved = status.saved
  if (!saved) return
  if (saved.problem) note("save", sentence(saved.problem), "problem")
  else if (saved.finished) note("save", `Saved ${saved.of} frames: ${saved.name}, with its prompts beside it (.txt).`, "good")
  else note("save", `Saving: ${saved.done} of ${saved.of} frames.`, "good")
}

/** The prompts as long as they last. A mark shows where the video was made again. */
function showStrip() {
  if (!about || !status) return
  const strip = $("strip")
  const end = Math.max(stage.shown + 1, 1)
  const known = prompts.filter(([start]) => start < Math.max(end, status.made))
  const items = known.map(([start, text], number) => {
    const length = Math.max((known[number + 1]?.[0] ?? end) - start, 1)
    return { start, text, length, redo: status.redo.filter((frame) => frame >= start && frame < start + length) }
  })
  if (status.waiting) items.push({ start: null, text: status.text, length: 1, redo: [] })
  const atEnd = strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 40
  while (strip.children.length > items.length) strip.lastElementChild.remove()
  items.forEach((item, number) => fillPart(strip.children[number] ?? strip.appendChild(newPart()), item))
  if (atEnd) strip.scrollLeft = strip.scrollWidth
}

function newPart() {
  const part = element("li", {}, element("button", { type: "button", title: "Copy this prompt into the prompt field" },
    element("b"), element("span"), element("i")))
  part.firstElementChild.addEventListener("click", () => {
    field.value = part.querySelector("span").textContent
    edited = true
    field.focus()
  })
  return part
}

function fillPart(part, { start, text, length, redo }) {
  const [time_, words, marks] = part.firstElementChild.children
  set(time_, start === null ? "next" : `${start}`)
  set(words, text)
  set(marks, "↺".repeat(Math.min(redo.length, 3)))
  part.classList.toggle("next", start === null)
  part.style.flexBasis = `${length * FRAME_PIXELS}px`
}

function showWords() {
  const groups = about.groups.map(([name, words]) =>
    element("section", {}, element("h2", {}, name),
      element("div", {}, ...words.map((word) => element("button", { type: "button", "data-word": word }, word)))))
  $("words").replaceChildren(...groups)
  $("words").hidden = !groups.length
}

function flash() {
  $("stage").animate([{ opacity: 0.35 }, { opacity: 1 }], 300)
}

// What the person does

$("ask").addEventListener("submit", (event) => {
  event.preventDefault()
  say()
})
$("pause").addEventListener("click", pause)
$("back").addEventListener("click", () => send({ do: "back" }))
$("save").addEventListener("click", () => send({ do: "save" }))
$("directions").addEventListener("click", ({ target }) => {
  const direction = /** @type {HTMLElement} */ (target).dataset.direction
  if (direction) turn(direction)
})
$("words").addEventListener("mousedown", (event) => event.preventDefault()) // the field keeps its caret
$("words").addEventListener("click", ({ target }) => {
  const word = /** @type {HTMLElement} */ (target).dataset.word
  if (word) putWord(word)
})

field.addEventListener("input", () => {
  edited = true
  clearTimeout(checking)
  checking = setTimeout(() => send({ do: "check", text: field.value }), CHECK_MILLISECONDS)
})

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return
  if (document.activeElement === field) return keyInField(event)
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key
  const onButton = document.activeElement?.tagName === "BUTTON"
  if (key === " " && !event.repeat) pause()
  else if (key === "r" && !event.repeat) send({ do: "back" })
  else if (key === "s" && !event.repeat) send({ do: "save" })
  else if (key === "Enter" && !onButton) editPrompt()
  else if (TURNS[key] && about?.directions) turn(TURNS[key])
  else return
  event.preventDefault()
})
document.addEventListener("keyup", (event) => {
  if (event.key === " " && document.activeElement !== field) event.preventDefault() // it would press a button that has the focus
})

function editPrompt() {
  field.focus()
  field.select()
}

function keyInField(event) {
  if (event.key !== "Escape") return // Enter sends the form
  edited = false
  if (status) field.value = status.text
  note("check", "")
  field.blur()
}

/** Put a word in place of what is selected, or of a word of its group at the caret, or in between. */
function putWord(word) {
  const text = field.value
  let [start, end] = [field.selectionStart ?? text.length, field.selectionEnd ?? text.length]
  if (document.activeElement !== field && start === 0 && end === 0) start = end = text.length
  if (start === end) {
    const before = text.slice(0, start).match(/[\p{L}\d]*$/u)[0].length
    const after = text.slice(end).match(/^[\p{L}\d]*/u)[0].length
    const there = text.slice(start - before, end + after)
    if (there && sameGroup(there.toLowerCase(), word)) [start, end] = [start - before, end + after]
    else start = end = end + after
  }
  const [left, right] = [text.slice(0, start), text.slice(end)]
  const put = `${left && !/\s$/.test(left) ? " " : ""}${word}${right && !/^[\s,.:;)]/.test(right) ? " " : ""}`
  field.focus()
  field.setRangeText(put, start, end, "end")
  field.dispatchEvent(new Event("input"))
}

function sameGroup(one, other) {
  return about.groups.some(([, words]) => words.includes(one) && words.includes(other))
}

// Small helpers

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}

function set(target, text) {
  if (target.textContent !== text) target.textContent = text
}

function sentence(text) {
  return withStop(text.charAt(0).toUpperCase() + text.slice(1))
}

function withStop(text) {
  return /[.?!]$/.test(text) ? text : `${text}.`
}

function time(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`
}
