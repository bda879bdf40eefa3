/** Which nodes of the graph belong together: through reroutes, nodes in between, and subgraphs. */

import { widgetOf, wrappersOf } from "./page.js"

export const SAMPLER = "ARTVMaskedDiffusionSampler"
export const FIT_IMAGE = "ARTVFitImage"
const SUBGRAPH_INPUT = -10 // the origin of a link that enters a subgraph
const SUBGRAPH_OUTPUT = -20 // the target of a link that leaves a subgraph

/**
 * The samplers that a node's first output reaches, through LoRA nodes, reroutes and subgraphs; or nodes of that class.
 * `input`: only those that it reaches at their input of that name.
 */
export function samplersOf(source, wanted = SAMPLER, input = undefined) {
  const type = source.outputs?.[0]?.type
  const found = new Set()
  const seen = new Set()
  const follow = (graph, origin, slot) => {
    for (const link of linksFrom(graph, origin, slot)) {
      if (Number(link.target_id) === SUBGRAPH_OUTPUT) {
        for (const outer of wrappersOf(graph)) follow(outer.graph, outer.id, link.target_slot)
        continue
      }
      const node = graph.getNodeById(link.target_id)
      if (node?.comfyClass === wanted && [undefined, node.inputs[link.target_slot].name].includes(input)) found.add(node)
      const passed = node?.subgraph ? link : node // another way into a subgraph leads elsewhere
      if (!node || node.comfyClass === wanted || seen.has(passed)) continue
      seen.add(passed)
      if (node.subgraph) follow(node.subgraph, SUBGRAPH_INPUT, link.target_slot)
      else node.outputs?.forEach((output, index) => [type, "*"].includes(output.type) && follow(graph, node.id, index))
    }
  }
  if (source.graph) follow(source.graph, source.id, 0)
  return [...found]
}

/** Read from the links, because front ends differ in what an output knows about its links. */
function linksFrom(graph, origin, slot) {
  return [...graph.links.values()].filter((link) => Number(link.origin_id) === Number(origin) && link.origin_slot === slot)
}

/** The node that feeds an input, beyond reroutes; undefined if there is none. */
export function sourceOf(node, name) {
  let slot = node.inputs.findIndex((input) => input.name === name)
  while (node && slot >= 0) {
    const link = node.getInputLink(slot)
    node = link && node.graph.getNodeById(link.origin_id)
    if (node?.type !== "Reroute") return node ?? undefined
    slot = 0
  }
}

/** The node that feeds an input directly; undefined if there is none. */
export function feederOf(node, name) {
  const link = linkInto(node, name)
  return link ? (node.graph.getNodeById(link.origin_id) ?? undefined) : undefined
}

/** The widgets through which nodes that represent the subgraph around a node feed one of its inputs. */
export function promotedOf(node, name) {
  const link = linkInto(node, name)
  if (!link || Number(link.origin_id) !== SUBGRAPH_INPUT) return []
  const outer = node.graph.inputs?.[link.origin_slot]?.name
  return wrappersOf(node.graph).map((wrapper) => wrapper.widgets?.find((widget) => widget.name === outer)).filter(Boolean)
}

/**
 * The value of a node's input: that of its widget, or of the widget that stands for it on the outside of the subgraph.
 * Undefined if another node provides it, or if the subgraph is used several times with different values.
 */
export function givenValue(node, name) {
  const link = linkInto(node, name)
  if (!link) return widgetOf(node, name)?.value
  if (Number(link.origin_id) !== SUBGRAPH_INPUT) return undefined
  const outer = node.graph.inputs?.[link.origin_slot]?.name
  const [value, ...others] = wrappersOf(node.graph).map((wrapper) => givenValue(wrapper, outer))
  return others.every((other) => other === value) ? value : undefined
}

/** Read from the links, because a node that represents a subgraph looks for them inside it. */
function linkInto(node, name) {
  const id = node.inputs?.find((input) => input.name === name)?.link
  return id === null || id === undefined ? undefined : node.graph?.links.get(id)
}

/**
 * What feeds an input, beyond reroutes and the borders of subgraphs: its `node`, or the `widget` of a subgraph's node.
 * Null if nothing feeds it, undefined if that cannot be found.
 */
export function originOf(node, name) {
  let from = node
  let link = linkAt(from, from.inputs?.findIndex((input) => input.name === name) ?? -1)
  if (!link) return null
  while (link) {
    if (Number(link.origin_id) === SUBGRAPH_INPUT) {
      const outside = wrappersOf(from.graph)
      const outer = from.graph.inputs?.[link.origin_slot]?.name
      if (outside.length !== 1) return undefined
      from = outside[0]
      link = linkAt(from, from.inputs.findIndex((input) => input.name === outer))
      if (link) continue
      const widget = from.widgets?.find((one) => one.name === outer)
      return widget ? { widget } : null
    }
    from = from.graph.getNodeById(link.origin_id)
    if (from?.type === "Reroute") link = linkAt(from, 0)
    else if (!from?.subgraph) return from ? { node: from } : undefined
    else {
      const out = link.origin_slot
      link = [...from.subgraph.links.values()].find((one) => Number(one.target_id) === SUBGRAPH_OUTPUT && one.target_slot === out)
      from = { graph: from.subgraph }
    }
  }
  return null
}

/** Whether something feeds an input: not if a wire only leads to an input of the subgraph that is open on its outside. */
export function isFed(node, name) {
  return originOf(node, name) !== null
}

/** Read from the links, because a node that represents a subgraph looks for them inside it. */
function linkAt(node, slot) {
  const id = node.inputs?.[slot]?.link
  return id === null || id === undefined ? undefined : node.graph?.links.get(id)
}
