import { describe, expect, it } from 'vitest'
import { band, line, mean, percentTicks, place, series, stack, ticks, times, type Point } from './chart'
import { clock, localTimes, short, span } from './format'
import { consequence, machineOf, mayOpen, refusal, source, stateOf, strategyWords, unitOf, way, type Plan, type Release } from './release'

const second = 1e9
const service = { name: 'web', revision: { id: 'aa', port: 80 }, before: 1, instances: 2, health: {} }
const plan = (more: Partial<Plan> = {}): Plan => ({ repository: 'acme/shop', environment: 'production', by: 'ada', services: [service], strategy: { kind: 'canary', analysis: { step_weight: 10 } }, ...more })
const release = (more: Partial<Release> = {}): Release => ({ id: 2, number: 2, plan: plan(), phase: 'shifting', since: '', began: '', parts: [], weight: 20, outcome: '', version: 1, ...more })
const told = (r: Release) => way(r).map((s) => `${s.phase} ${s.state}`)

describe('way', () => {
  it('shows the steps of a strategy, and where the release is', () => {
    expect(told(release())).toEqual(['starting done', 'shifting now', 'live ahead'])
    expect(way(release()).find((s) => s.state === 'now')!.title).toBe('Shifting · 20 %')
    expect(way(release({ paused: true }))[1]!.title).toBe('Shifting · 20 % · paused')
    const full = plan({ gate: { kind: 'review' }, watch: { for: second }, services: [{ ...service, hook: ['migrate'] }], strategy: { kind: 'canary', analysis: { step_weight_promotion: 20 } } })
    expect(told(release({ plan: full, phase: 'promoting' }))).toEqual(['gated done', 'preparing done', 'starting done', 'shifting done', 'promoting now', 'watching ahead', 'live ahead'])
    expect(told(release({ plan: plan({ strategy: { kind: 'blue-green', blue_green: { keep_alive: true } } }), phase: 'watching' }))).toEqual(['starting done', 'ready done', 'shifting done', 'watching now', 'live ahead'])
    expect(told(release({ plan: plan({ strategy: { kind: 'recreate' } }), phase: 'starting' }))).toEqual(['starting now', 'live ahead'])
  })
  it('has no steps of the traffic where nothing served, or an older revision is restored', () => {
    expect(told(release({ plan: plan({ services: [{ ...service, before: undefined }] }), phase: 'live' }))).toEqual(['starting done', 'live done'])
    expect(told(release({ plan: plan({ restores: 1 }), phase: 'retired' }))).toEqual(['starting done', 'live done'])
  })
  it('ends where the release was taken back', () => {
    expect(told(release({ phase: 'failed', weight: 0, step: 2 }))).toEqual(['starting done', 'shifting failed', 'live ahead'])
    expect(told(release({ phase: 'reverting', weight: 0, parts: [{ service: 'web', want: 2 }] }))).toEqual(['starting failed', 'shifting ahead', 'live ahead'])
    expect(told(release({ phase: 'aborted', promoted: 'x' }))).toEqual(['starting done', 'shifting done', 'watching failed', 'live ahead'])
    const reviewed = { plan: plan({ gate: { kind: 'review' } }), phase: 'aborted', weight: 0, since: '2026-01-01T00:00:00Z' } as const
    expect(told(release(reviewed)).slice(0, 2)).toEqual(['gated failed', 'starting ahead'])
    expect(told(release({ ...reviewed, confirmed: ['review'] })).slice(0, 2)).toEqual(['gated done', 'starting failed'])
  })
})

describe('machineOf', () => {
  it('gives instances to machines in turn, and none to the server', () => {
    expect([0, 1, 2].map((i) => machineOf(plan({ machines: ['one', 'two'] }), i))).toEqual(['one', 'two', 'one'])
    expect(machineOf(plan(), 0)).toBeUndefined()
  })
})

describe('strategies in words', () => {
  it.each([
    [{ kind: 'recreate' }, 'Recreate: the old instances stop, then the new ones start'],
    [{ kind: 'rolling' }, 'Rolling: 1 instance at a time'],
    [{ kind: 'rolling', rolling: { batch: 3 } }, 'Rolling: 3 instances at a time'],
    [{ kind: 'blue-green' }, 'Blue-green: all traffic at once'],
    [{ kind: 'blue-green', blue_green: { ready_stop: true, termination_wait: 300 * second, traffic: { type: 'canary', percent: 10, interval: 60 * second } } }, 'Blue-green: somebody approves the new fleet, 10 % of the traffic first, all of it 1m later, the old fleet is kept for 5m'],
    [{ kind: 'blue-green', blue_green: { keep_alive: true, traffic: { type: 'linear', percent: 20, interval: 90 * second } } }, 'Blue-green: 20 % more of the traffic every 1m 30s, the old fleet is kept until the next release'],
    [{ kind: 'canary', analysis: { interval: 30 * second, step_weight: 10, max_weight: 50, threshold: 5 } }, 'Canary: 10 % more of the traffic every 30s up to 50 %, taken back after 5 failed looks'],
    [{ kind: 'canary', analysis: { step_weights: [1, 5, 50], mirror: true } }, 'Canary: a copy of the traffic first, 1, 5, 50 % of the traffic, a step, taken back after 1 failed look'],
    [{ kind: 'canary', analysis: { iterations: 10, interval: 60 * second, match: [{}] } }, 'Canary: requests that match go to the new revision for 10 looks every 1m, taken back after 1 failed look'],
    [{ kind: 'canary', analysis: { iterations: 10 } }, 'Canary: 10 looks before all traffic moves, taken back after 1 failed look'],
  ] as const)('%j', (strategy, words) => {
    expect(strategyWords(strategy as unknown as Plan['strategy'])).toBe(words)
  })
})

describe('steering', () => {
  const can = (r: Release) => (['promote', 'pause', 'resume', 'weight', 'abort', 'rollback'] as const).filter((a) => refusal(r, a) === '')
  it('offers what makes sense', () => {
    expect(can(release())).toEqual(['promote', 'pause', 'weight', 'abort'])
    expect(can(release({ paused: true, gate: { kind: 'paused' } }))).toEqual(['promote', 'resume', 'weight', 'abort'])
    expect(can(release({ phase: 'starting' }))).toEqual(['pause', 'abort'])
    expect(can(release({ phase: 'watching' }))).toEqual(['pause', 'rollback'])
    expect(can(release({ phase: 'live' }))).toEqual(['rollback'])
    expect(can(release({ phase: 'ready', gate: { kind: 'ready' }, plan: plan({ strategy: { kind: 'blue-green' } }) }))).toEqual(['promote', 'pause', 'abort'])
    expect(can(release({ plan: plan({ strategy: { kind: 'rolling' } }) }))).toEqual(['pause', 'abort'])
    expect(can(release({ plan: plan({ strategy: { kind: 'canary', analysis: { iterations: 3, match: [{}] } } }) }))).not.toContain('weight')
    for (const phase of ['reverting', 'failed', 'retired'] as const) expect(can(release({ phase }))).toEqual([])
  })
  it('says what will happen', () => {
    expect(consequence(release(), 'abort')).toContain('All traffic goes back')
    expect(consequence(release({ phase: 'starting', weight: 0 }), 'abort')).toBe('What v2 has started is stopped. What serves now goes on serving.')
    expect(consequence(release({ phase: 'live' }), 'rollback')).toContain('a new release')
    expect(consequence(release({ phase: 'watching' }), 'rollback')).toContain('at once')
  })
  it('knows who may open a gate', () => {
    expect(mayOpen({ kind: 'review' }, 'ada', true)).toBe(true)
    expect(mayOpen({ kind: 'review' }, 'ada', false)).toBe(false)
    expect(mayOpen({ kind: 'review', who: ['Ada'] }, 'ada', false)).toBe(true)
    expect(mayOpen({ kind: 'review', who: ['bob'] }, 'ada', true)).toBe(false)
    expect(mayOpen({ kind: 'review', not: ['ada'] }, 'ada', true)).toBe(false)
  })
  it('names states', () => {
    expect(stateOf(release()).text).toBe('Takes 20 %')
    expect(stateOf(release({ paused: true })).text).toBe('Paused at 20 %')
    expect(stateOf(release({ phase: 'failed' })).conclusion).toBe('failure')
  })
  it('names sources and units', () => {
    expect(source({ id: '', port: 1, image: 'shop/web@sha256:0123456789abcdef0123' })).toBe('shop/web@sha256:0123456789ab')
    expect(source({ id: '', port: 1, artifact: 'sha256:0123456789abcdef' })).toBe('files 0123456789ab')
    expect([unitOf('request-duration of web'), unitOf('errors against before'), unitOf('queue')]).toEqual([' ms', ' %', ''])
  })
})

const point = (at: number, requests: number | null): Point => ({ at, requests, errors: null, p50: null, p99: null })

describe('charts', () => {
  const pools = [
    { release: 1, number: 1, points: [point(100, 4), point(110, 3), point(130, 2)] },
    { release: 2, number: 2, points: [point(110, 1), point(120, null), point(130, 2)] },
  ]
  const at = times(pools, 10)
  it('puts pools on the same times, with gaps', () => {
    expect(at).toEqual([100, 110, 120, 130])
    expect(series(pools, at, 10, (p) => p.requests).map((s) => s.values)).toEqual([[4, 3, null, 2], [null, 1, null, 2]])
    expect(times([], 10)).toEqual([])
    expect(times([{ points: [point(0, 1), point(1e9, 1)] }], 1).length).toBe(2001)
  })
  it('stacks', () => {
    expect(stack(series(pools, at, 10, (p) => p.requests)).map((b) => b.high)).toEqual([[4, 3, 0, 2], [4, 4, 0, 4]])
  })
  it('has round axes', () => {
    expect(ticks(0, 47)).toEqual([0, 20, 40, 60])
    expect(ticks(0, 100)).toEqual([0, 25, 50, 75, 100])
    expect(ticks(0, 0.3)).toEqual([0, 0.1, 0.2, 0.3])
    expect(ticks(0, 0)).toEqual([0, 0.25, 0.5, 0.75, 1])
    for (const high of [1e-6, 0.07, 3, 9.99, 12345, 1e9]) {
      const axis = ticks(0, high)
      expect(axis.length).toBeLessThanOrEqual(6)
      expect(axis.at(-1)).toBeGreaterThanOrEqual(high)
    }
    expect(percentTicks([{ number: 1, values: [99.4, null] }])).toEqual([99, 99.5, 100])
    expect(percentTicks([{ number: 1, values: [12] }])).toEqual([0, 50, 100])
    expect(place(30, [0, 20, 40, 60])).toBe(0.5)
  })
  it('breaks lines where values are missing', () => {
    expect(line([1, 2, null, 3, null], (i) => i * 10, (v) => v)).toBe('M0 1L10 2M30 3h1')
    expect(band([0, 0], [1, 2], (i) => i, (v) => v)).toBe('M0 1L1 2L1 0L0 0Z')
    expect(band([], [], (i) => i, (v) => v)).toBe('')
    expect([mean([1, null, 3]), mean([null])]).toEqual([2, null])
  })
})

describe('words', () => {
  it('says lengths and numbers', () => {
    expect([0.25, 30, 300, 5400, 3661].map((s) => span(s * second))).toEqual(['250ms', '30s', '5m', '1h 30m', '1h 1m 1s'])
    expect([undefined, 0, 0.123, 12.34, 1234.5].map(short)).toEqual(['–', '0', '0.12', '12.3', '1,235'])
  })
  it('shows times of sentences where the reader is', () => {
    const now = Date.parse('2026-01-01T12:00:00Z')
    expect(localTimes('Weight 20, since 2026-01-01T11:59:00Z, until 2026-01-01T12:01:00.5+00:00; go', now)).toBe(`Weight 20, since ${clock('2026-01-01T11:59:00Z', now)}, until ${clock('2026-01-01T12:01:00.5Z', now)}; go`)
    expect(clock('2025-12-01T12:00:00Z', now)).toContain('2025')
  })
})
