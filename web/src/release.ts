// Releases as the server tells of them, and what the pages say about them.

import { span } from './format'

export type Phase =
  | 'gated' | 'preparing' | 'starting' | 'ready' | 'shifting' | 'promoting' | 'watching' | 'live' | 'reverting'
  | 'retired' | 'failed' | 'aborted' | 'superseded'

export interface Gate {
  kind: string
  who?: string[]
  not?: string[]
  wait?: number
  on_timeout?: string
  reason?: string
  since?: string
  deadline?: string
}

export interface Strategy {
  kind: 'recreate' | 'rolling' | 'blue-green' | 'canary'
  blue_green?: {
    termination_wait?: number
    keep_alive?: boolean
    ready_stop?: boolean
    ready_wait?: number
    test_hosts?: string[]
    traffic?: { type: string; percent?: number; interval?: number }
  }
  analysis?: {
    exact?: boolean
    interval?: number
    threshold?: number
    max_weight?: number
    step_weight?: number
    step_weights?: number[]
    step_weight_promotion?: number
    iterations?: number
    mirror?: boolean
    match?: unknown[]
  }
  rolling?: { batch?: number }
}

export interface Service {
  name: string
  revision: { id: string; image?: string; artifact?: string; command?: string[]; port: number; memory?: number; cpus?: number }
  before?: number
  instances: number
  health: { path?: string }
  hook?: string[]
}

export interface Plan {
  repository: string
  environment: string
  ref?: string
  sha?: string
  by: string
  reason?: string
  restores?: number
  run?: number
  services: Service[]
  strategy: Strategy
  machines?: string[]
  gate?: Gate
  watch?: { for?: number; errors?: number; latency?: number; restarts?: number }
}

/** The machine that an instance runs on; undefined is the server's own. */
export function machineOf(plan: Plan, index: number): string | undefined {
  return plan.machines?.length ? plan.machines[index % plan.machines.length] : undefined
}

export interface Instance {
  index: number
  state: 'starting' | 'healthy' | 'ill' | 'exited' | 'stopped'
  restarts?: number
  reason?: string
  since?: string
}

export interface Check {
  name: string
  at: string
  query?: string
  value?: number
  old?: number
  sample?: number
  limit?: string
  verdict: 'pass' | 'fail' | 'inconclusive'
  reason?: string
}

export interface TimelineEntry {
  at: string
  type: string
  text: string
  warning?: boolean
  by?: string
  count?: number // how often, if more than once, until then
  until?: string
}

export interface Release {
  id: number
  number: number
  plan: Plan
  phase: Phase
  reason?: string
  since: string
  began: string
  ended?: string
  promoted?: string
  parts: { service: string; want: number; up?: boolean; instances?: Instance[] }[]
  weight: number
  mirrored?: boolean
  gate?: Gate
  paused?: boolean
  by?: string
  confirmed?: string[] // kinds of the gates that somebody has opened
  step?: number
  failed_checks?: number
  checks?: Check[]
  outcome: '' | 'released' | 'failed' | 'aborted' | 'superseded'
  waits?: string
  restores?: number // number of the release whose revision it brings back
  version: number // grows with whatever changes
  timeline?: TimelineEntry[]
}

export interface EnvironmentView {
  repository: string
  environment: string
  services: { name: string; urls: string[] | null; serving?: number; shares: { release: number; number: number; percent: number }[] }[]
  releases: Release[]
  taken_back?: Release // the newest of all, if it failed or was aborted
  version: number
  may_release: boolean
}

export const isOver = (r: Release) => ['retired', 'failed', 'aborted', 'superseded'].includes(r.phase)

/** Whether it is neither what serves and stays, nor over. */
export const isUnderWay = (r: Release) => r.phase !== 'live' && !isOver(r)

/** Whether it was taken back, or is being so. */
export const isTakenBack = (r: Release) => r.phase === 'reverting' || r.phase === 'failed' || r.phase === 'aborted' || r.phase === 'superseded'

export const isWebAddress = (url: string) => /^https?:\/\//.test(url)

/** Whether it goes by its strategy: the first release of an environment and one that restores an older revision start and serve. */
const goesBySteps = (p: Plan) => !p.restores && p.services.some((s) => s.before)

/** A strategy in words. */
export function strategyWords(s: Strategy): string {
  const every = (interval?: number) => (interval ? ` every ${span(interval)}` : '')
  if (s.kind === 'recreate') return 'Recreate: the old instances stop, then the new ones start'
  if (s.kind === 'rolling') {
    const n = s.rolling?.batch || 1
    return `Rolling: ${n} ${n === 1 ? 'instance' : 'instances'} at a time`
  }
  if (s.kind === 'blue-green') {
    const f = s.blue_green ?? {}
    const t = f.traffic
    const moves = t?.type === 'canary' ? `${t.percent} % of the traffic first, all of it ${span(t.interval ?? 0)} later`
      : t?.type === 'linear' ? `${t.percent} % more of the traffic${every(t.interval)}`
        : 'all traffic at once'
    const kept = f.keep_alive ? 'the old fleet is kept until the next release' : f.termination_wait ? `the old fleet is kept for ${span(f.termination_wait)}` : ''
    return `Blue-green: ${[f.ready_stop ? 'somebody approves the new fleet' : '', moves, kept].filter(Boolean).join(', ')}`
  }
  const a = s.analysis ?? {}
  const iterations = `${a.iterations} looks${every(a.interval)}`
  const steps = a.match?.length && a.iterations ? `requests that match go to the new revision for ${iterations}`
    : a.iterations ? `${iterations} before all traffic moves`
      : a.step_weights?.length ? `${a.step_weights.join(', ')} % of the traffic, a step${every(a.interval)}`
        : `${a.step_weight ?? 0} % more of the traffic${every(a.interval)} up to ${a.max_weight || 100} %`
  const failed = a.threshold || 1
  return `Canary: ${[a.mirror ? 'a copy of the traffic first' : '', steps, `taken back after ${failed} failed ${failed === 1 ? 'look' : 'looks'}`].filter(Boolean).join(', ')}`
}

export interface WayStep {
  phase: Phase
  title: string
  state: 'done' | 'now' | 'ahead' | 'failed'
}

/** The steps of a release's way and where it is on it. One that is taken back ends its way at the step it had come to. */
export function way(r: Release): WayStep[] {
  const { strategy: s, services, gate, watch } = r.plan
  const steps: [Phase, string, boolean][] = [
    ['gated', 'Approved', !!gate],
    ['preparing', 'Prepared', services.some((x) => x.hook?.length) && !r.plan.restores],
    ['starting', 'Started', true],
    ['ready', 'Ready', s.kind === 'blue-green' && goesBySteps(r.plan)],
    ['shifting', s.kind === 'rolling' ? 'Rolled' : 'Shifted', s.kind !== 'recreate' && goesBySteps(r.plan)],
    ['promoting', 'Promoted', !!s.analysis?.step_weight_promotion && goesBySteps(r.plan)],
    ['watching', 'Watched', goesBySteps(r.plan) && !!(watch?.for || s.blue_green?.termination_wait || s.blue_green?.keep_alive)],
    ['live', 'Live', true],
  ]
  const back = isTakenBack(r)
  const at = r.phase === 'retired' ? 'live' : back ? cameTo(r) : r.phase
  const list = steps.filter(([phase, , on]) => on || phase === at)
  const here = list.findIndex(([phase]) => phase === at)
  return list.map(([phase, title], i) => {
    const state = i < here || (i === here && (r.phase === 'live' || r.phase === 'retired')) ? 'done' : i > here ? 'ahead' : back ? 'failed' : 'now'
    return { phase, title: state === 'now' ? nowTitle(r, title) : title, state }
  })
}

function nowTitle(r: Release, title: string): string {
  const titles: Partial<Record<Phase, string>> = { gated: 'Waits for approval', preparing: 'Preparing', starting: 'Starting', shifting: r.plan.strategy.kind === 'rolling' ? 'Rolling' : 'Shifting', promoting: 'Promoting', watching: 'Watching' }
  const weighs = (r.phase === 'shifting' && r.plan.strategy.kind !== 'rolling') || r.phase === 'promoting'
  return `${titles[r.phase] ?? title}${weighs ? ` · ${r.mirrored ? 'mirrored' : `${r.weight} %`}` : ''}${r.paused ? ' · paused' : ''}`
}

/** How far a release had come that was taken back. */
function cameTo(r: Release): Phase {
  if (r.promoted) return 'watching'
  if (r.step || r.weight > 0 || r.checks?.length) return 'shifting'
  if (r.parts.some((p) => p.want > 0 || p.up || p.instances?.length)) return 'starting'
  return r.plan.gate && !r.confirmed?.includes(r.plan.gate.kind) ? 'gated' : 'starting'
}

/** A release's state in a word or two, and the sign for it. */
export function stateOf(r: Release): { text: string; status: string; conclusion?: string } {
  if (r.phase === 'live') return { text: 'Serves', status: 'completed', conclusion: 'success' }
  if (r.phase === 'retired') return { text: 'Released', status: 'completed', conclusion: 'success' }
  if (r.phase === 'failed') return { text: 'Failed', status: 'completed', conclusion: 'failure' }
  if (r.phase === 'aborted') return { text: 'Aborted', status: 'completed', conclusion: 'cancelled' }
  if (r.phase === 'superseded') return { text: 'Superseded', status: 'completed', conclusion: 'skipped' }
  if (r.phase === 'reverting') return { text: 'Is being taken back', status: 'in_progress' }
  if (r.paused) return { text: `Paused at ${r.weight} %`, status: 'waiting' }
  if (r.gate) return { text: 'Waits', status: 'waiting' }
  if (r.phase === 'watching') return { text: 'Serves, watched', status: 'completed', conclusion: 'success' }
  return { text: r.phase === 'shifting' || r.phase === 'promoting' ? `Takes ${r.weight} %` : r.phase === 'ready' ? 'Ready' : r.phase === 'preparing' ? 'Preparing' : 'Starting', status: 'in_progress' }
}

export type Action = 'promote' | 'pause' | 'resume' | 'weight' | 'abort' | 'rollback'

/** Why an action makes no sense now; empty if it does. The server has the last word. */
export function refusal(r: Release, action: Action): string {
  const { kind, analysis } = r.plan.strategy
  if (isOver(r)) return 'It is over.'
  if (r.phase === 'reverting') return 'It is being taken back already.'
  switch (action) {
    case 'promote':
      if (r.phase === 'watching' || r.phase === 'live') return 'It is promoted.'
      if (kind === 'rolling') return 'Rolling goes on by itself.'
      if (r.phase !== 'ready' && r.phase !== 'shifting') return 'It can be promoted when its instances are healthy.'
      return ''
    case 'pause':
      return r.phase === 'live' ? 'There is nothing to hold: it serves.' : r.paused ? 'It is paused.' : ''
    case 'resume':
      return r.paused ? '' : 'It is not paused.'
    case 'weight':
      if (kind !== 'canary' && kind !== 'blue-green') return `Traffic has no weight in the strategy ${kind}.`
      if (kind === 'canary' && analysis?.match?.length && analysis.iterations) return 'An A/B test has no weight: what matches goes to the new revision.'
      if (r.phase === 'watching' || r.phase === 'live') return 'It takes all traffic.'
      if (r.phase === 'ready' && r.gate && r.gate.kind !== 'paused') return 'It waits for approval first.'
      if (r.phase !== 'ready' && r.phase !== 'shifting') return 'It takes no traffic yet.'
      return ''
    case 'abort':
      return r.phase === 'live' || r.phase === 'watching' ? 'It is promoted: roll it back.' : ''
    case 'rollback':
      return r.phase === 'watching' || r.phase === 'live' ? '' : 'It is not promoted: abort it.'
  }
}

/** What an action will do, said before it is done. */
export function consequence(r: Release, action: Action): string {
  const before = r.plan.services.some((s) => s.before)
  const back = before ? 'All traffic goes back to the revision that serves beside it, at once' : 'Nothing served before it: nothing serves after it'
  switch (action) {
    case 'promote':
      return r.gate && r.gate.kind !== 'paused' ? 'The gate opens, and the release goes on.' : `v${r.number} takes all traffic now, without the steps that are left. Nothing is restarted.`
    case 'pause':
      if (r.weight === 0) return 'The release stays where it is, and what serves goes on serving, until somebody resumes it.'
      return r.phase === 'watching' ? 'The window after promotion does not end, and the old revision stays warm, until somebody resumes.' : `Traffic stays at ${r.weight} % until somebody resumes, promotes or aborts it.`
    case 'resume':
      return 'The release goes on by itself from where it is.'
    case 'weight':
      return 'The new revision takes this part of the traffic, the old one the rest, and the release pauses there.'
    case 'abort':
      return r.weight > 0 || r.phase === 'shifting' ? `${back}, and the instances of v${r.number} are stopped.` : `What v${r.number} has started is stopped. ${before ? 'What serves now goes on serving.' : ''}`.trim()
    case 'rollback':
      return r.phase === 'watching' ? `The revision before is warm: all traffic goes back to it at once, and v${r.number} is stopped.` : 'The revision before is gone: a new release starts it again and takes all traffic when it is healthy.'
  }
}

/** Whether somebody may open a gate: those it names, whatever else they may, or else everybody who may release. */
export function mayOpen(g: Gate, login: string, mayRelease: boolean): boolean {
  const named = (list?: string[]) => (list ?? []).some((l) => l.toLowerCase() === login.toLowerCase())
  return !named(g.not) && (g.who?.length ? named(g.who) : mayRelease)
}

/** What penstock.yaml says of environments. */
export interface Declared {
  missing?: boolean
  mistake?: string
  environments: { name: string; services: string[]; branches: string[] }[]
}

/** What the numbers of a check are counted in, as far as its name tells. */
export function unitOf(check: string): string {
  return /^(request-success-rate|errors)/.test(check) ? ' %' : /^(request-duration|latency)/.test(check) ? ' ms' : ''
}

/** Where a revision comes from: the image or the files, short. */
export function source(rev: Service['revision']): string {
  if (rev.image) {
    const [name, digest] = rev.image.split('@')
    return digest ? `${name}@${digest.slice(0, 19)}` : name!
  }
  return rev.artifact ? `files ${rev.artifact.replace(/^sha256:/, '').slice(0, 12)}` : (rev.command ?? []).join(' ')
}
