/** One line that says before a run which words of its prompts the model does not know. */

import { SAMPLER, samplersOf } from "./connections.js"
import { factsFor } from "./facts.js"
import { ask, element, setting, text, timesReconnected, watch } from "./page.js"

document.head.append(element("link", { rel: "stylesheet", href: new URL("./words.css", import.meta.url).href }))

/**
 * Look which words of the texts that `read()` gives are not known to the models of a node's samplers, again whenever
 * that changes or the page has connected again. `onChange` gets `{line, help}`: an empty line if all are known or the models
 * know all words. It gets undefined if `read()` gives null, because the page cannot read the texts, if no model is known, or
 * if the server does not answer.
 */
export function followWords(node, read, onChange) {
  let asked = 0
  const look = async ([texts, models]) => {
    const number = ++asked
    if (!texts || !models) return onChange(undefined)
    const answers = await Promise.all(models.map((model) => unknownTo(model, texts))).catch(() => null)
    if (number !== asked) return
    onChange(answers ? { line: answers.map(wordsLine).filter(Boolean).join(" "), help: helpOf(models) } : undefined)
  }
  watch(node, () => [read(), modelsOf(node), timesReconnected(), setting("Comfy.Locale")], look)
}

/** The line about the words that a model does not know; "" if it knows all. `words` are pairs: a word, one close to it. */
export function wordsLine(unknown) {
  if (!unknown?.words.length) return ""
  const { model, words, more } = unknown
  const shown = words.map(([word, near]) => (near ? text("words.near", { word, near }) : word)).join(", ")
  return text("words.line", { model, words: more ? text("words.more", { words: shown, more }) : shown })
}

/** The models with a closed vocabulary that a node's samplers use, each once; null if no model is known. */
function modelsOf(node) {
  const samplers = node.comfyClass === SAMPLER ? [node] : samplersOf(node)
  const facts = factsFor(samplers).filter(Boolean)
  if (!facts.length) return null
  const closed = facts.filter(({ vocabulary }) => vocabulary.length)
  return [...new Map(closed.map(({ name, vocabulary }) => [name, { name, vocabulary }])).values()]
}

async function unknownTo({ name, vocabulary }, texts) {
  const answer = await ask("words", { texts, vocabulary })
  return { model: name, ...answer }
}

function helpOf(models) {
  return models.map(({ name, vocabulary }) => text("words.known", { model: name, words: vocabulary.join(", ") })).join("\n")
}
