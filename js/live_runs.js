/**
 * What the page knows about the samplers' runs: the server's messages while they go on, which run a result from the
 * host's cache came from, and the error if nothing was made.
 */

import { api, app, ask, setting, text } from "./page.js"
import { LiveRun } from "./live_run.js"

const EVENT = "artv.live"
const SAMPLER = "ARTVMaskedDiffusionSampler"
const PICTURES = "ARTV.LivePictures"
const STORED = "ARTV.runs"
const MAX_RUNS = 16 // as many as the server keeps
const MAX_STORED = 32
const MAX_LINES = 3

/** The run to show for each node of each graph, the latest last. */
const runs = new Map()
/** What the server has sent, by the ids of the runs. */
const known = new Map()
/** Where a result from the host's cache was asked for last, by the id of the run that made it: workflow, node, prompt. */
const cached = new Map()
/** The host's last error about a sampler that it refused to run, by the host's name of the sampler. */
const refused = new Map()
const listeners = new Set()

api.addEventListener(EVENT, ({ detail }) => receive(detail)) // before the settings are read, because that may subscribe
api.addEventListener("execution_cached", ({ detail }) => recall(detail.prompt_id, detail.nodes))
api.addEventListener("execution_success", ({ detail }) => recall(detail.prompt_id))
api.addEventListener("execution_error", ({ detail }) => fail(detail))

app.registerExtension({
  name: "ARTV.live",
  settings: [
    {
      id: PICTURES,
      category: ["ARTV", "Live view", "Pictures"],
      name: "Show frames in the sampler while they are made",
      tooltip: "Takes about 2% of the run's time. Off: numbers and the drift curve only.",
      type: "boolean",
      defaultValue: true,
      onChange: () => subscribe(),
    },
  ],
  setup() {
    api.addEventListener("reconnected", subscribe)
    subscribe()
  },
})

/** Call `listener` whenever a run has changed. Returns a function that ends this. */
export function onRuns(listener) {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** The run of a node in the open graph, or undefined. */
export function runOf(node) {
  return [...runs.values()].reverse().find((run) => isOpen(run) && nodeAt(run.node) === node)
}

function isOpen({ workflow }) {
  return !workflow || workflow === rootGraph()?.id
}

export function rootGraph() {
  return app.rootGraph ?? app.graph
}

/** The node that the host calls "5", or "3:5" if it is in the subgraph of node 3. */
function nodeAt(path) {
  let graph = rootGraph()
  let node
  for (const part of String(path).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part))
    graph = node?.subgraph
  }
  return node
}

/**
 * Ask the server to send messages about this page's runs, and at once everything about those it knows. The page's id
 * comes with the socket and stays the same when the page is reloaded. Runs that this browser stored earlier are named.
 */
async function subscribe() {
  while (!api.clientId) await new Promise((go) => setTimeout(go, 100))
  const question = { client_id: api.clientId, pictures: setting(PICTURES) ?? true, runs: storedRuns() }
  const before = [...known.values()]
  const answer = await ask("live", question).catch(() => null)
  if (answer) endLost(before.filter(({ id }) => !answer.runs.includes(id)))
}

/** Runs that the server no longer knows have ended with an earlier server. */
function endLost(lost) {
  for (const run of lost.filter(({ state }) => state === "running"))
    Object.assign(run, { state: "stopped", problem: text("live.restarted") })
  tell()
}

function storedRuns() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORED) ?? "[]")
    return Array.isArray(stored) ? stored.filter((one) => typeof one === "string").slice(-MAX_STORED) : []
  } catch {
    return []
  }
}

/** Store the id, so that a page opened later in this browser can name the run. */
function store(id) {
  const others = storedRuns().filter((one) => one !== id)
  try {
    localStorage.setItem(STORED, JSON.stringify([...others, id].slice(-MAX_STORED)))
  } catch {
    // If nothing can be stored, a page opened later does not find the run.
  }
}

function receive(message) {
  const before = known.get(message.run)
  const run = before ?? new LiveRun(message.run)
  run.take(message)
  latest(known, run.id, run)
  if (!before) store(run.id)
  const asked = cached.get(run.id)
  const isElsewhere = !!asked && keyOf(asked) !== keyOf(run)
  if (!isElsewhere) run.cachedFor = asked?.prompt === run.prompt ? undefined : asked?.prompt
  // Late messages, such as frames that are decoded after the run, do not show an old run again.
  const isShown = !before || run.state === "running" || runs.get(keyOf(run)) === run
  if (isShown || (message.whole && !isElsewhere)) put(run)
  if (isElsewhere && (!before || runs.get(keyOf(asked))?.id === run.id)) putCached(run, asked)
}

function put(run) {
  latest(runs, keyOf(run), run, (one) => !isOpen(one) || !nodeAt(one.node))
  tell()
}

/** Show a run where its result was asked for: at its own node, or at another one that made the same, as a copy does. */
function putCached(run, { workflow, node, prompt }) {
  const place = keyOf({ workflow, node })
  const shown = runs.get(place)
  const other = () => (shown?.id === run.id ? shown : Object.assign(Object.create(run), { workflow, node }))
  put(Object.assign(place === keyOf(run) ? run : other(), { cachedFor: prompt }))
}

function tell() {
  for (const listener of listeners) listener()
}

/** Show that a node made nothing for a prompt. A run of it that goes on stays: it is of another prompt. */
function putUnmade(values) {
  const shown = runs.get(keyOf(values))
  if (shown?.state !== "running") put(Object.assign(new LiveRun(null), values))
}

/**
 * Add to a map that keeps the latest entries at its end, and at most `MAX_RUNS` of them, apart from those that may not go.
 * @param {(one: any) => boolean} mayGo
 */
function latest(map, key, value, mayGo = () => true) {
  map.delete(key)
  map.set(key, value)
  const oldest = map.size > MAX_RUNS && [...map].find(([, one]) => mayGo(one))
  if (oldest) map.delete(oldest[0])
}

function keyOf({ workflow, node }) {
  return `${workflow}/${node}`
}

/**
 * If samplers of a prompt (all, or those of `nodes`) did not run because their results were cached, show the runs that
 * made these results.
 */
async function recall(prompt, nodes) {
  if (nodes && !nodes.some((path) => nodeAt(path)?.comfyClass === SAMPLER)) return
  const answer = await asked(prompt)
  for (const [node, id] of Object.entries(answer.runs)) {
    const asked = { workflow: answer.workflow, node, prompt }
    const [shown, run] = [runs.get(keyOf(asked)), known.get(id)]
    const isMade = run?.prompt === prompt && keyOf(run) === keyOf(asked) // also if something later is shown
    if (isMade || shown?.prompt === prompt || (nodes && !nodes.includes(node))) continue
    if (id) latest(cached, id, asked)
    if (run) putCached(run, asked)
    if (!id) putUnmade({ ...asked, state: "cached" })
  }
}

/**
 * Ask the server which runs belong to a prompt's samplers. It sends the runs themselves through the socket, before or
 * after.
 */
async function asked(prompt) {
  const question = { client_id: api.clientId, prompt_id: prompt }
  return ask("recall", question).catch(() => ({ workflow: null, runs: {} }))
}

/** A node failed and ended a prompt: samplers that made nothing for it show why. */
async function fail({ prompt_id: prompt, node_id: faulty, exception_message: message }) {
  const answer = await asked(prompt)
  for (const [node, id] of Object.entries(answer.runs)) {
    const shown = runs.get(keyOf({ workflow: answer.workflow, node }))
    if (id || shown?.prompt === prompt || shown?.cachedFor === prompt) continue
    const problem = said(node, faulty, firstLine(message))
    putUnmade({ workflow: answer.workflow, node, prompt, state: "refused", problem })
  }
}

/** What the host refused to run; null if it refused nothing in the open graph. */
export function refusal() {
  const faults = Object.entries(app.extensionManager?.lastNodeErrors ?? app.lastNodeErrors ?? {})
  const isHere = faults.every(([path, { class_type: kind }]) => nodeAt(path)?.comfyClass === kind)
  if (!faults.length || !isHere) return null
  return faults.map(([path, { errors }]) => [path, errors.map(lineOf)])
}

/** Show on a sampler, once, what the host refused to run; null if nothing. A run that goes on is shown with it. */
export function refuse(node, faults) {
  const path = pathOf(node)
  const told = JSON.stringify(faults)
  if (!path || refused.get(path) === told) return
  refused.set(path, told)
  const shown = runOf(node)
  if (shown) shown.refusal = undefined
  if (faults) {
    const lines = faults.flatMap(([faulty, found]) => found.map((line) => said(path, faulty, line)))
    const problem = [...new Set(lines)].slice(0, MAX_LINES).join("\n")
    if (shown?.state === "running") shown.refusal = problem
    else putUnmade({ workflow: rootGraph().id, node: path, prompt: null, state: "refused", problem })
  }
  tell()
}

/** The host's name for a node of the open graph: the reverse of `nodeAt`. */
export function pathOf(node, graph = rootGraph(), before = "") {
  for (const one of graph?.nodes ?? []) {
    if (one === node) return `${before}${one.id}`
    const found = one.subgraph && pathOf(node, one.subgraph, `${before}${one.id}:`)
    if (found) return found
  }
}

function said(node, faulty, line) {
  return String(faulty) === String(node) ? line : `${nodeAt(faulty)?.title ?? faulty}: ${line}`
}

/** An error as one line. The name of the input that the host puts before it stays if nothing else names the input. */
function lineOf({ type, message, details, extra_info: about }) {
  const told = String(details ?? "")
  if (type !== "custom_validation_failed") return firstLine([message, told].filter(Boolean).join(": "))
  return firstLine(told.replace(`${about?.input_name} - `, ""))
}

function firstLine(told) {
  return String(told ?? "").trim().split("\n")[0]
}
