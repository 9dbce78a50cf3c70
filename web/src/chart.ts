// The numbers behind the charts: what is drawn where. No DOM, no colours.

export interface Point {
  at: number // seconds since 1970
  requests: number | null // a second
  errors: number | null // percent of them
  p50: number | null // milliseconds
  p99: number | null
}

export interface Traffic {
  step: number // seconds between two points
  services: { service: string; pools: { release: number; number: number; points: Point[] }[] }[]
}

export interface Series {
  number: number
  values: (number | null)[] // one for each time
}

/** The times of a chart: all that any pool has, and every step between them. */
export function times(pools: { points: Point[] }[], step: number): number[] {
  let [first, last] = [Infinity, -Infinity]
  for (const p of pools) {
    for (const { at } of p.points) {
      first = Math.min(first, at)
      last = Math.max(last, at)
    }
  }
  if (!(last >= first) || !(step > 0)) return []
  return Array.from({ length: Math.min(Math.round((last - first) / step), 2000) + 1 }, (_, i) => last - i * step).reverse()
}

/** One number of each pool at each of the times, null where it has none. */
export function series(pools: Traffic['services'][number]['pools'], at: number[], step: number, of: (p: Point) => number | null): Series[] {
  return pools.map((pool) => {
    const values: (number | null)[] = at.map(() => null)
    for (const p of pool.points) {
      const i = Math.round((p.at - (at[0] ?? 0)) / step)
      if (i >= 0 && i < values.length) values[i] = of(p)
    }
    return { number: pool.number, values }
  })
}

/** Numbers for an axis: round ones, so that it stays as it is while values change a little; at most five. */
export function ticks(low: number, high: number): number[] {
  if (!(high > low)) high = low + 1
  const rough = (high - low) / 4
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * (1 - 1e-9))!
  const out: number[] = []
  for (let i = Math.floor(low / step + 1e-9); ; i++) {
    out.push(Number((i * step).toPrecision(12)))
    if (i * step >= high - 1e-9 * step) return out
  }
}

/** The axis of percentages near 100: as much below it as the values need. */
export function percentTicks(list: Series[]): number[] {
  const least = Math.min(100, ...list.flatMap((s) => s.values.filter((v) => v !== null)))
  return [99, 95, 90, 75, 50, 0].filter((floor) => floor <= least).slice(0, 1).flatMap((floor) => [floor, (floor + 100) / 2, 100])
}

export const highest = (list: Series[]) => Math.max(0, ...list.flatMap((s) => s.values.map((v) => v ?? 0)))

/** Each series on those before it: where its band begins and ends at each time. */
export function stack(list: Series[]): { number: number; low: number[]; high: number[] }[] {
  let below = (list[0]?.values ?? []).map(() => 0)
  return list.map(({ number, values }) => {
    const low = below
    below = low.map((v, i) => v + (values[i] ?? 0))
    return { number, low, high: below }
  })
}

/** Where a value is between the ends of an axis, from 0 to 1. */
export const place = (v: number, axis: number[]) => (v - axis[0]!) / (axis[axis.length - 1]! - axis[0]!)

/** The way of a line: broken where a value is missing; a value that stands alone is a short stroke. */
export function line(values: (number | null)[], x: (i: number) => number, y: (v: number) => number): string {
  let out = ''
  values.forEach((v, i) => {
    if (v === null) return
    const joined = i > 0 && values[i - 1] !== null
    out += `${joined ? 'L' : 'M'}${round(x(i))} ${round(y(v))}`
    if (!joined && (values[i + 1] ?? null) === null) out += 'h1'
  })
  return out
}

/** The outline of a band. */
export function band(low: number[], high: number[], x: (i: number) => number, y: (v: number) => number): string {
  if (low.length === 0) return ''
  const up = high.map((v, i) => `${round(x(i))} ${round(y(v))}`)
  const down = low.map((v, i) => `${round(x(i))} ${round(y(v))}`).reverse()
  return `M${[...up, ...down].join('L')}Z`
}

const round = (n: number) => Math.round(n * 10) / 10

/** The mean of what there is; null of nothing. */
export function mean(values: (number | null)[]): number | null {
  const known = values.filter((v) => v !== null)
  return known.length === 0 ? null : known.reduce((a, b) => a + b, 0) / known.length
}
