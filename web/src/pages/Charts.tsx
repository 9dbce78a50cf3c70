import { Group, Paper, SegmentedControl, Select, Table, Text, Title } from '@mantine/core'
import { useElementSize } from '@mantine/hooks'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { native } from '../api'
import { band, highest, line, mean, percentTicks, place, series, stack, ticks, times, type Point, type Series, type Traffic } from '../chart'
import { clock, short } from '../format'
import { WideTable } from '../parts'

const minutes = 30
const [high, left, right, top, bottom] = [150, 40, 6, 8, 18]

/** Releases keep their colour while others come and go; the newest has the unbroken line. */
export const seriesClass = (number: number) => `s${number % 5}`

const success = (p: Point) => (p.errors === null ? null : 100 - p.errors)
const kinds: { title: string; unit: string; of: (p: Point) => number | null; axis: (list: Series[]) => number[]; stacked?: boolean }[] = [
  { title: 'Traffic', unit: ' req/s', of: (p) => p.requests, axis: (list) => ticks(0, highest(stack(list).map((b) => ({ number: b.number, values: b.high })))), stacked: true },
  { title: 'Success rate', unit: ' %', of: success, axis: percentTicks },
  { title: 'Latency, median', unit: ' ms', of: (p) => p.p50, axis: (list) => ticks(0, highest(list)) },
  { title: 'Latency, 99th percentile', unit: ' ms', of: (p) => p.p99, axis: (list) => ticks(0, highest(list)) },
]

/** What the proxy measured of each revision in the last half hour. */
export function Charts({ path }: { path: string }) {
  const [chosen, choose] = useState('')
  const [at, setAt] = useState<number>()
  const traffic = useQuery({ queryKey: ['traffic', path], refetchInterval: 5000, placeholderData: keepPreviousData, queryFn: ({ signal }) => native<Traffic>(`${path}/traffic?minutes=${minutes}`, signal) })
  const all = traffic.data?.services ?? []
  const service = all.find((s) => s.service === chosen) ?? all[0]
  const pools = [...(service?.pools ?? [])].filter((p) => p.points.some((x) => x.requests)).sort((a, b) => a.number - b.number)
  const step = traffic.data?.step ?? 10
  const time = times(pools, step)
  const index = at === undefined || at >= time.length ? time.length - 1 : at
  return (
    <Paper withBorder p="md" component="section" aria-label="Traffic by revision">
      <Group justify="space-between" mb="xs">
        <Title order={3} size="h4">Traffic by revision</Title>
        {all.length > 3 && <Select size="xs" aria-label="Service" data={all.map((s) => s.service)} value={service?.service} allowDeselect={false} onChange={(s) => choose(s ?? '')} />}
        {all.length > 1 && all.length <= 3 && <SegmentedControl size="xs" aria-label="Service" data={all.map((s) => s.service)} value={service?.service} onChange={choose} />}
      </Group>
      {traffic.error && !traffic.data ? <Text size="sm" c="dimmed">{traffic.error.message}</Text>
        : traffic.data && time.length === 0 ? <Text size="sm" c="dimmed">{all.length === 0 ? 'The server that carries this environment has no proxy, so nothing is measured: serve --proxy ADDR.' : `No requests in the last ${minutes} minutes.`}</Text>
          : (
            <>
              <div className="charts">
                {kinds.map((k) => (
                  <Chart key={k.title} kind={k} list={series(pools, time, step, k.of)} time={time} index={index} chosen={at !== undefined} choose={setAt} />
                ))}
              </div>
              <details className="more">
                <summary>As a table</summary>
                <Numbers pools={pools} time={time} step={step} />
              </details>
            </>
          )}
    </Paper>
  )
}

function Chart({ kind, list, time, index, chosen, choose }: { kind: (typeof kinds)[number]; list: Series[]; time: number[]; index: number; chosen: boolean; choose: (i?: number) => void }) {
  const { ref, width } = useElementSize()
  const axis = kind.axis(list)
  const inner = Math.max(width - left - right, 1)
  const x = (i: number) => left + (time.length < 2 ? inner : (i / (time.length - 1)) * inner)
  const y = (v: number) => top + (1 - place(v, axis)) * (high - top - bottom)
  const newest = list.at(-1)
  const look = (number: number) => `${seriesClass(number)}${number === newest?.number ? '' : ' older'}`
  const said = list.map((s) => `v${s.number} now ${measured(s.values[time.length - 1], kind.unit)}, ${measured(mean(s.values), kind.unit)} on average`).join('; ')
  return (
    <figure className="chart">
      <figcaption>
        <Text span size="sm" fw={600}>{kind.title} <Text span inherit fw={400} c="dimmed">{kind.unit}</Text></Text>
        <span className="values">
          {[...list].reverse().map((s) => (
            <span key={s.number}>
              <Swatch number={s.number} older={s !== newest} /> v{s.number} {measured(s.values[index], kind.unit)}
            </span>
          ))}
        </span>
      </figcaption>
      <div ref={ref}>
        <svg
          width={width} height={high} role="img" aria-label={`${kind.title} of the last ${minutes} minutes: ${said}`} onPointerLeave={() => choose()}
          onPointerMove={(e) => choose(Math.min(time.length - 1, Math.max(0, Math.round(((e.clientX - e.currentTarget.getBoundingClientRect().left - left) / inner) * (time.length - 1)))))}
        >
          {axis.map((v) => (
            <g key={v}>
              <path className="line" d={`M${left} ${y(v)}h${inner}`} />
              <text x={left - 6} y={y(v) + 4} textAnchor="end">{short(v)}</text>
            </g>
          ))}
          {time.length > 0 && <text x={left} y={high - 2}>{clock(time[0]! * 1000)}</text>}
          {time.length > 0 && <text x={width - right} y={high - 2} textAnchor="end">{clock(time[index]! * 1000)}</text>}
          {kind.stacked
            ? stack(list).map((b, i) => (
              <g key={b.number} className={look(b.number)}>
                <path className="band" d={band(b.low, b.high, x, y)} />
                <path className="curve" d={line(b.high.map((v, n) => (list[i]!.values[n] ? v : null)), x, y)} />
              </g>
            ))
            : list.map((s) => <path key={s.number} className={`curve ${look(s.number)}`} d={line(s.values, x, y)} />)}
          {chosen && <path className="cursor" d={`M${x(index)} ${top}V${high - bottom}`} />}
        </svg>
      </div>
    </figure>
  )
}

const measured = (value: number | null | undefined, unit: string) => (value === null || value === undefined ? '–' : short(value) + unit)

/** How a release is drawn, as a small piece of it. */
export function Swatch({ number, older }: { number: number; older?: boolean }) {
  return (
    <svg className={`${seriesClass(number)}${older ? ' older' : ''}`} width="18" height="10" aria-hidden="true">
      <path className="curve" d="M0 5h18" />
    </svg>
  )
}

/** The numbers of the charts, by the minute. */
function Numbers({ pools, time, step }: { pools: Traffic['services'][number]['pools']; time: number[]; step: number }) {
  const lists = kinds.map((k) => series(pools, time, step, k.of))
  const many = Math.max(1, Math.round(60 / step))
  const rows = Array.from({ length: Math.ceil(time.length / many) }, (_, i) => [Math.max(0, time.length - (i + 1) * many), time.length - i * many] as const)
  return (
    <WideTable width={160 + pools.length * 340} label="Traffic by revision, by the minute">
      <Table.Thead>
        <Table.Tr>
          <Table.Th>Until</Table.Th>
          {pools.flatMap((p) => kinds.map((k) => <Table.Th key={p.number + k.title}>v{p.number} {k.title.toLowerCase()}</Table.Th>))}
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {rows.map(([from, to]) => (
          <Table.Tr key={time[to - 1]}>
            <Table.Th scope="row">{clock(time[to - 1]! * 1000)}</Table.Th>
            {pools.flatMap((p, i) => kinds.map((k, n) => {
              const value = mean(lists[n]![i]!.values.slice(from, to))
              return <Table.Td key={p.number + k.title}>{measured(value, k.unit)}</Table.Td>
            }))}
          </Table.Tr>
        ))}
      </Table.Tbody>
    </WideTable>
  )
}
