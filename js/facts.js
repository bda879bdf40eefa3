/** What the server knows about the checkpoints that the graph's loaders name. */

import { FIT_IMAGE, SAMPLER, givenValue, samplersOf } from "./connections.js"
import { ask, setting, text, timesReconnected, watch, whileInGraph } from "./page.js"

const MENUS = ["checkpoint", "base"]

/** The loaders that are followed, with what is known of their checkpoints. */
const loaders = new Map()

/**
 * Ask the server about the checkpoint that a loader names, again whenever its menus change or
 * the page has connected again. `onChange` gets an object:
 * empty while the answer is awaited, then with the `facts`, or with the line that says why there are none: a `note` if
 * that is as it should be, else a `problem`.
 */
export function followFacts(loader, onChange) {
  let asked = 0
  const tell = (answer) => {
    loaders.set(loader, answer.facts)
    onChange(answer)
  }
  const look = async (question) => {
    const number = ++asked
    tell({})
    if (!question) return tell({ note: text("checkpoint.wiredMenu") })
    const answer = await ask("checkpoint", question).then((facts) => ({ facts }), (error) => ({ problem: error.message }))
    if (number === asked) tell(answer)
  }
  watch(loader, () => [questionOf(loader), timesReconnected(), setting("Comfy.Locale")], ([question]) => look(question))
  whileInGraph(loader, () => () => {
    asked++ // an answer that is still awaited is of no use
    loaders.delete(loader)
  })
}

/** The names in the loader's menus, its own or those on the outside of its subgraph; null if a node provides one. */
function questionOf(loader) {
  const menus = MENUS.filter((name) => loader.widgets?.some((widget) => widget.name === name))
  const values = menus.map((name) => [name, givenValue(loader, name)])
  return values.some(([, value]) => value === undefined) ? null : Object.fromEntries(values)
}

/** What is known about the checkpoints whose models reach these nodes; undefined for one that is not known. */
export function factsFor(nodes) {
  const reached = (loader) => [SAMPLER, FIT_IMAGE].flatMap((kind) => samplersOf(loader, kind))
  return [...loaders].filter(([loader]) => reached(loader).some((one) => nodes.includes(one))).map(([, facts]) => facts)
}
