// The layout of a run's jobs: columns by the longest way from a job that needs none, matrices as one node with its cells.

export interface Job {
  id: string
  name: string
  parent?: string
  call?: boolean
  expanded?: boolean
  cell: number
  cells: number
  needs?: string[]
  labels?: string[]
  status: string
  conclusion?: string
  reason?: string
  since?: string
  started?: string
  completed?: string
  environment?: string
  environment_url?: string
  runner?: string
  attempt: number
  steps?: import('./log').Step[]
  annotations?: Annotation[]
  gate?: { opened: string; until?: string; expires?: string; approved?: string; comment?: string }
}

export interface Annotation {
  level: string
  message: string
  title?: string
  file?: string
  line?: number
  step?: number
}

export interface Node {
  id: string
  title: string
  jobs: Job[] // one, or the cells of a matrix
  matrix: boolean
  column: number
  row: number
}

export interface Graph {
  nodes: Node[]
  edges: [string, string][] // from what is needed to what needs it
  columns: number
  rows: number
}

/** The job that a job's ID is a cell of: "test/1" is of "test". */
export function matrixOf(job: Job): string {
  const slash = job.id.lastIndexOf('/')
  return job.cells > 1 && slash > 0 ? job.id.slice(0, slash) : job.id
}

export function layout(jobs: Job[]): Graph {
  const leaves = jobs.filter((j) => !j.call && !j.expanded)
  const nodes = new Map<string, Node>()
  for (const j of leaves) {
    const id = matrixOf(j)
    const node = nodes.get(id)
    if (node) node.jobs.push(j)
    else nodes.set(id, { id, title: j.cells > 1 ? id.split(':').pop()! : j.name, jobs: [j], matrix: j.cells > 1, column: 0, row: 0 })
  }
  // What a need names may be a matrix, or a call whose last jobs are meant, and a job in a call waits for what the call needs.
  const called = new Map<string, Job>(jobs.filter((j) => j.call).map((j) => [j.id, j]))
  const standFor = (id: string): string[] => {
    if (nodes.has(id)) return [id]
    return [...nodes.values()].filter((n) => n.jobs.some((j) => within(j, id, called))).map((n) => n.id)
  }
  const needs = new Map<string, string[]>()
  for (const n of nodes.values()) {
    const first = n.jobs[0]!
    let wanted = first.needs ?? []
    for (let p = first.parent ? called.get(first.parent) : undefined; wanted.length === 0 && p; p = p.parent ? called.get(p.parent) : undefined) {
      wanted = p.needs ?? []
    }
    needs.set(n.id, [...new Set(wanted.flatMap(standFor))].filter((id) => id !== n.id))
  }
  const column = (id: string, path: Set<string>): number => {
    if (path.has(id)) return 0
    path.add(id)
    const c = Math.max(-1, ...(needs.get(id) ?? []).map((n) => column(n, path))) + 1
    path.delete(id)
    return c
  }
  const filled: number[] = []
  for (const n of nodes.values()) {
    n.column = column(n.id, new Set())
    n.row = filled[n.column] ?? 0
    filled[n.column] = n.row + 1
  }
  const edges: [string, string][] = []
  for (const [id, of] of needs) {
    // A way that goes through another need is not drawn twice.
    for (const n of of) if (!of.some((other) => other !== n && reaches(needs, other, n, 0))) edges.push([n, id])
  }
  return { nodes: [...nodes.values()], edges, columns: filled.length, rows: Math.max(0, ...filled.map((n) => n ?? 0)) }
}

function within(job: Job, call: string, called: Map<string, Job>): boolean {
  for (let p = job.parent; p; p = called.get(p)?.parent) if (p === call) return true
  return false
}

function reaches(needs: Map<string, string[]>, from: string, to: string, depth: number): boolean {
  if (depth > 300) return false
  return (needs.get(from) ?? []).some((n) => n === to || reaches(needs, n, to, depth + 1))
}

/** One state for several jobs: the one that matters most. */
export function summary(jobs: Job[]): { status: string; conclusion?: string } {
  for (const status of ['in_progress', 'waiting', 'queued', 'pending']) {
    if (jobs.some((j) => j.status === status)) return { status }
  }
  for (const conclusion of ['failure', 'cancelled', 'success', 'skipped']) {
    if (jobs.some((j) => j.conclusion === conclusion)) return { status: 'completed', conclusion }
  }
  return { status: 'completed', conclusion: jobs[0]?.conclusion }
}

/** The jobs that made the run take as long as it did, the last one first: each is what the one before it waited for. */
export function criticalPath(jobs: Job[]): Set<string> {
  const leaves = jobs.filter((j) => !j.call && !j.expanded && j.started && j.completed)
  const path = new Set<string>()
  const graph = layout(jobs)
  const nodeOf = new Map(graph.nodes.flatMap((n) => n.jobs.map((j) => [j.id, n.id] as const)))
  const latest = (of: Job[]) => of.reduce<Job | undefined>((a, b) => (!a || b.completed! > a.completed! ? b : a), undefined)
  for (let j = latest(leaves); j && !path.has(j.id); ) {
    path.add(j.id)
    const node = nodeOf.get(j.id)
    const before = graph.edges.filter(([, to]) => to === node).map(([from]) => from)
    j = latest(leaves.filter((o) => before.includes(nodeOf.get(o.id) ?? '')))
  }
  return path
}
