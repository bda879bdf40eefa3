/** What the server knows about the checkpoints that the graph's loaders name. */

import { SAMPLER, samplersOf } from "./connections.js"
import { ask, isWired, onRemoved, setting, text, watch, widgetOf } from "./page.js"

const MENUS = ["checkpoint", "base"]

/** The loaders that are followed, with what is known of their checkpoints. */
const loaders = new Map()

/**
 * Ask the server about the checkpoint that a loader names, again whenever its menus change. `onChange` gets undefined
 * while the answer is awaited, then the facts, or a line that says why there are none.
 */
export function followFacts(loader, onChange) {
  let asked = 0
  const tell = (answer) => {
    loaders.set(loader, typeof answer === "string" ? undefined : answer)
    onChange(answer)
  }
  const look = async (question) => {
    const number = ++asked
    tell(undefined)
    if (!question) return tell(text("checkpoint.wiredMenu"))
    const answer = await ask("checkpoint", question).catch((error) => error)
    if (number === asked) tell(answer instanceof Error ? answer.message : answer)
  }
  watch(loader, () => [questionOf(loader), setting("Comfy.Locale")], ([question]) => look(question))
  onRemoved(loader, () => loaders.delete(loader))
}

/** The names in the loader's menus, or null if a wire provides one. */
function questionOf(loader) {
  if (MENUS.some((name) => isWired(loader, name))) return null
  return Object.fromEntries(MENUS.map((name) => [name, widgetOf(loader, name)?.value]))
}

/** The samplers that a node belongs to: itself, or those that it feeds. */
export function samplersAt(node) {
  return node.comfyClass === SAMPLER ? [node] : samplersOf(node)
}

/** What is known about the checkpoints whose models reach these samplers; undefined for one that is not known. */
export function factsFor(samplers) {
  return [...loaders].filter(([loader]) => samplersOf(loader).some((one) => samplers.includes(one))).map(([, facts]) => facts)
}
