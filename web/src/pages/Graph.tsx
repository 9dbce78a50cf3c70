import { Link } from '@tanstack/react-router'
import { useState } from 'react'
import { duration, stateName } from '../format'
import { criticalPath, layout, summary, type Job, type Node } from '../graph'
import { State } from '../parts'

const [wide, high, gapX, gapY] = [230, 34, 64, 14]
// A matrix of more cells than this is shown as one line until it is asked for.
const maxCells = 6

/** The jobs of a run as a graph: what waits for what, live. */
export function Graph({ jobs, link, now }: { jobs: Job[]; link: (job: Job) => string; now: number }) {
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set())
  const graph = layout(jobs)
  const critical = criticalPath(jobs)
  const cells = (n: Node) => (!n.matrix ? 1 : open.has(n.id) || n.jobs.length <= maxCells ? n.jobs.length + 1 : 1)
  const top = new Map<string, number>()
  const height: number[] = []
  for (const n of graph.nodes) {
    top.set(n.id, height[n.column] ?? 0)
    height[n.column] = (height[n.column] ?? 0) + cells(n) * high + gapY
  }
  const left = (n: Node) => n.column * (wide + gapX)
  const middle = (n: Node) => top.get(n.id)! + (cells(n) * high) / 2
  const byID = new Map(graph.nodes.map((n) => [n.id, n]))
  return (
    <div className="graph" tabIndex={0} role="region" aria-label="Graph of the jobs">
      <svg width={Math.max(graph.columns * (wide + gapX) - gapX, wide) + 2} height={Math.max(0, ...height.map((h) => h ?? 0)) - gapY + 4}>
        {graph.edges.map(([from, to]) => {
          const [a, b] = [byID.get(from)!, byID.get(to)!]
          const [x1, y1, x2, y2] = [left(a) + wide + 1, middle(a) + 1, left(b) + 1, middle(b) + 1]
          return <path key={from + '>' + to} className="edge" d={`M${x1} ${y1}C${x1 + gapX / 2} ${y1} ${x2 - gapX / 2} ${y2} ${x2} ${y2}`} />
        })}
        {graph.nodes.map((n) => (
          <g key={n.id} transform={`translate(${left(n) + 1},${top.get(n.id)! + 1})`}>
            <rect className={`node${n.jobs.some((j) => critical.has(j.id)) && graph.nodes.length > 1 ? ' critical' : ''}`} width={wide} height={cells(n) * high} rx={7} />
            {n.matrix && <MatrixHead node={n} open={cells(n) > 1} toggle={() => setOpen(new Set(open.has(n.id) ? [...open].filter((i) => i !== n.id) : [...open, n.id]))} />}
            {(!n.matrix || cells(n) > 1) && n.jobs.map((j, i) => <Cell key={j.id} job={j} y={(n.matrix ? i + 1 : i) * high} link={link(j)} now={now} />)}
          </g>
        ))}
      </svg>
    </div>
  )
}

function MatrixHead({ node, open, toggle }: { node: Node; open: boolean; toggle: () => void }) {
  const done = node.jobs.filter((j) => j.status === 'completed').length
  const s = summary(node.jobs)
  return (
    <g
      role="button" tabIndex={0} aria-expanded={open} aria-label={`Matrix ${node.title}: ${done} of ${node.jobs.length} done`} onClick={toggle} style={{ cursor: 'pointer' }}
      onKeyDown={(e) => (e.key === 'Enter' || e.key === ' ') && (e.preventDefault(), toggle())}
    >
      <rect width={wide} height={high} fill="transparent" />
      <svg x={10} y={9}><State {...s} silent /></svg>
      <text x={34} y={22}>{cut(`Matrix: ${node.title}`, 22)}</text>
      <text x={wide - 12} y={22} textAnchor="end" className="small">{done}/{node.jobs.length} {open ? '▾' : '▸'}</text>
    </g>
  )
}

function Cell({ job, y, link, now }: { job: Job; y: number; link: string; now: number }) {
  const time = duration(job.started, job.completed, now)
  return (
    <Link to={link} aria-label={`${job.name}: ${stateName(job.status, job.conclusion)}${job.reason ? '. ' + job.reason : ''}`}>
      <title>{[job.name, job.reason].filter(Boolean).join('\n')}</title>
      <rect y={y} width={wide} height={high} fill="transparent" />
      <svg x={10} y={y + 9}><State status={job.status} conclusion={job.conclusion} silent /></svg>
      <text x={34} y={y + 22}>{cut(job.name, 22)}</text>
      <text x={wide - 12} y={y + 22} textAnchor="end" className="small">{time}</text>
    </Link>
  )
}

const cut = (s: string, n: number) => (s.length > n ? s.slice(0, n - 1) + '…' : s)

/** When each job waited and worked. */
export function Waterfall({ jobs, now }: { jobs: Job[]; now: number }) {
  const leaves = jobs.filter((j) => !j.call && !j.expanded && j.started)
  if (leaves.length < 2) return null
  const begin = Math.min(...leaves.map((j) => Date.parse(j.started!)))
  const end = Math.max(...leaves.map((j) => (j.completed ? Date.parse(j.completed) : now)), begin + 1)
  const at = (t: number) => `${((t - begin) / (end - begin)) * 100}%`
  const critical = criticalPath(jobs)
  return (
    <div className="bars" role="img" aria-label={`Times of ${leaves.length} jobs`}>
      {leaves.map((j) => {
        const [from, to] = [Date.parse(j.started!), j.completed ? Date.parse(j.completed) : now]
        return [
          <span key={j.id + 'n'} className="name" title={j.name}>{j.name}</span>,
          <span key={j.id + 't'} className="track">
            <span className={critical.has(j.id) ? 'work critical' : 'work'} style={{ left: at(from), width: at(begin + to - from) }} />
          </span>,
          <span key={j.id + 'd'}>{duration(j.started, j.completed, now)}</span>,
        ]
      })}
    </div>
  )
}
