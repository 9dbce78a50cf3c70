import { Alert, Anchor, Button, Checkbox, Group, Modal, Paper, Stack, Text, Textarea, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { Link, useParams } from '@tanstack/react-router'
import { useEffect, useState } from 'react'
import { github, listen, native, queries, send, sendNative, type Run } from '../api'
import { ago, duration, size, stateName } from '../format'
import type { Job } from '../graph'
import { Branch, Problem, Prose, RepositoryHead, State, useNow, useRepository, Waiting } from '../parts'
import { Graph, Waterfall } from './Graph'
import { Log } from './Log'

export function RunPage() {
  const { owner, repo, run: id, attempt, job: number } = useParams({ strict: false }) as { owner: string; repo: string; run: string; attempt?: string; job?: string }
  const name = `${owner}/${repo}`
  const path = `/repos/${name}/runs/${id}`
  const query = useQuery({ queryKey: ['run', name, id, attempt], queryFn: () => native<Run>(attempt ? `${path}?attempt=${attempt}` : path) })
  const repository = useRepository(name)
  useEffect(() => listen(`${path}/events`, () => queries.invalidateQueries({ queryKey: ['run', name, id] })), [name, id])
  const run = query.data
  const now = useNow(run !== undefined && run.status !== 'completed')
  useEffect(() => {
    if (run) document.title = `${stateName(run.status, run.conclusion)}: ${run.name} · ${name}`
  }, [run, name])
  if (query.isPending) return <Waiting what="the run" />
  if (query.error) return <Problem error={query.error} />
  if (!run) return null
  const first = `/${name}/actions/runs/${id}`
  const base = attempt ? `${first}/attempts/${attempt}` : first
  const leaves = run.jobs.filter((j) => !j.call && !j.expanded)
  const link = (j: Job) => `${base}/job/${run.numbers[j.id] ?? 0}`
  const job = number ? leaves.find((j) => String(run.numbers[j.id]) === number) : undefined
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="actions" />
      <Group justify="space-between" mb="md" wrap="wrap">
        <Group gap="sm" wrap="nowrap">
          <State status={run.status} conclusion={run.conclusion} size={26} />
          <div>
            <Title order={2} size="h3" lineClamp={2}>
              {run.name} <Text span c="dimmed" fw={400} inherit>#{run.number}</Text>
            </Title>
            <Group gap="xs">
              <Text size="sm" c="dimmed">
                {run.title} · {run.event} by {run.actor} · {ago(run.created, now)} · {duration(run.started ?? run.created, run.completed, now)}
              </Text>
              <Branch name={run.ref} />
              <Text size="sm" c="dimmed" ff="monospace">{run.sha.slice(0, 7)}</Text>
              <Attempts path={first} shown={run.attempt} last={run.last_attempt} />
            </Group>
          </div>
        </Group>
        {repository.data?.permissions.push && run.attempt === run.last_attempt && <Actions name={name} run={run} job={job} />}
      </Group>
      {run.status !== 'completed' && run.attempt === run.last_attempt && <Review name={name} run={run} />}
      {run.reason && <Alert color="yellow" mb="md">{run.reason}</Alert>}
      {(run.annotations ?? []).map((a, i) => (
        <Alert key={i} color={a.level === 'error' ? 'red' : 'yellow'} mb="md" title={a.title}>{a.message}</Alert>
      ))}
      <div className="run">
        <nav aria-label="Jobs">
          <ul>
            <li>
              <Link to={base} activeOptions={{ exact: true }} aria-current={job ? undefined : 'page'}>Summary</Link>
            </li>
            {leaves.map((j) => (
              <li key={j.id}>
                <Link to={link(j)} aria-current={j === job ? 'page' : undefined}>
                  <State status={j.status} conclusion={j.conclusion} />
                  {j.name}
                </Link>
                {j.reason && <div className="reason">{j.reason}</div>}
              </li>
            ))}
          </ul>
        </nav>
        {job ? <JobPart key={job.id + job.attempt} path={path} job={job} now={now} /> : <Summary run={run} link={link} now={now} />}
      </div>
    </>
  )
}

/** The attempts of a run, each with its own page. */
function Attempts({ path, shown, last }: { path: string; shown: number; last: number }) {
  if (last < 2) return null
  return (
    <nav aria-label="Attempts" className="attempts">
      attempt
      {Array.from({ length: last }, (_, i) => i + 1).slice(-20).map((n) => (
        <Link key={n} to={n === last ? path : `${path}/attempts/${n}`} activeOptions={{ exact: true }} aria-current={n === shown ? 'page' : undefined}>{n}</Link>
      ))}
    </nav>
  )
}

function JobPart({ path, job, now }: { path: string; job: Job; now: number }) {
  return (
    <Stack gap="sm">
      <Group gap="xs">
        <Title order={3} size="h4">{job.name}</Title>
        <Text size="sm" c="dimmed">
          {stateName(job.status, job.conclusion)} {job.started && `· ${duration(job.started, job.completed, now)}`} {job.runner && `· on ${job.runner}`}
        </Text>
      </Group>
      {job.reason && <Alert color={job.conclusion === 'failure' ? 'red' : 'yellow'}>{job.reason}</Alert>}
      {job.environment_url && /^https?:/.test(job.environment_url) && <Anchor href={job.environment_url} rel="noreferrer noopener">{job.environment_url}</Anchor>}
      <Log path={path} job={job} now={now} />
    </Stack>
  )
}

function Summary({ run, link, now }: { run: Run; link: (j: Job) => string; now: number }) {
  const told = run.jobs.flatMap((j) => (j.annotations ?? []).map((a) => ({ ...a, job: j })))
  const summaries = run.jobs.flatMap((j) => (j.steps ?? []).filter((s) => s.summary).map((s) => ({ job: j, step: s })))
  return (
    <Stack>
      <Graph jobs={run.jobs} link={link} now={now} />
      <Waterfall jobs={run.jobs} now={now} />
      {told.length > 0 && (
        <section aria-label="Annotations">
          <Title order={3} size="h4" mb="xs">Annotations</Title>
          <Stack gap="xs">
            {told.slice(0, 100).map((a, i) => (
              <Alert key={i} color={a.level === 'error' ? 'red' : a.level === 'warning' ? 'yellow' : 'blue'} title={a.title || `${a.job.name}${a.file ? `: ${a.file}${a.line ? `:${a.line}` : ''}` : ''}`}>
                {a.message}
              </Alert>
            ))}
          </Stack>
        </section>
      )}
      <Artifacts name={`${location.pathname.split('/')[1]}/${location.pathname.split('/')[2]}`} run={run} />
      {summaries.map(({ job, step }) => (
        <Paper withBorder p="md" key={job.id + step.number} component="section" aria-label={`Summary of ${job.name}`}>
          <Text size="sm" c="dimmed" mb="xs">{job.name}</Text>
          <Prose html>{step.summary!}</Prose>
        </Paper>
      ))}
    </Stack>
  )
}

function Artifacts({ name, run }: { name: string; run: Run }) {
  const { data } = useQuery({
    queryKey: ['artifacts', name, run.id, run.status],
    queryFn: () => github<{ artifacts: { id: number; name: string; size_in_bytes: number }[] }>(`/repos/${name}/actions/runs/${run.id}/artifacts?per_page=100`),
  })
  if (!data || data.artifacts.length === 0) return null
  return (
    <section aria-label="Artifacts">
      <Title order={3} size="h4" mb="xs">Artifacts</Title>
      <Stack gap={4}>
        {data.artifacts.map((a) => (
          <Group key={a.id} gap="xs">
            <Anchor href={`/api/v3/repos/${name}/actions/artifacts/${a.id}/zip`} download={`${a.name}.zip`}>{a.name}</Anchor>
            <Text size="sm" c="dimmed">{size(a.size_in_bytes)}</Text>
          </Group>
        ))}
      </Stack>
    </section>
  )
}

function Actions({ name, run, job }: { name: string; run: Run; job?: Job }) {
  const [error, setError] = useState('')
  const act = (path: string) => async () => {
    setError('')
    try {
      await send('POST', `/repos/${name}/actions/${path}`)
      await queries.invalidateQueries({ queryKey: ['run'] })
    } catch (e) {
      setError((e as Error).message)
    }
  }
  const resumable = run.jobs.some((j) => j.conclusion === 'failure' && (j.steps ?? []).some((s) => s.conclusion === 'failure' && s.snapshot))
  const resume = async () => {
    setError('')
    try {
      await sendNative('POST', `/repos/${name}/runs/${run.id}/resume`)
      await queries.invalidateQueries({ queryKey: ['run'] })
    } catch (e) {
      setError((e as Error).message)
    }
  }
  const failed = run.conclusion === 'failure' || run.conclusion === 'cancelled'
  return (
    <Group gap="xs">
      {error && <Text size="sm" c="red" role="alert">{error}</Text>}
      {run.status !== 'completed' && <Button variant="default" onClick={act(`runs/${run.id}/cancel`)}>Cancel</Button>}
      {run.status === 'completed' && resumable && <Button onClick={resume} title="With the disk as it was before the step">Go on from the failed step</Button>}
      {run.status === 'completed' && failed && <Button variant={resumable ? 'default' : 'filled'} onClick={act(`runs/${run.id}/rerun-failed-jobs`)}>Re-run failed jobs</Button>}
      {run.status === 'completed' && job && <Button variant="default" onClick={act(`jobs/${run.numbers[job.id]}/rerun`)}>Re-run this job</Button>}
      {run.status === 'completed' && <Button variant="default" onClick={act(`runs/${run.id}/rerun`)}>Re-run all jobs</Button>}
    </Group>
  )
}

interface Pending {
  environment: { id: number; name: string }
  current_user_can_approve: boolean
  reviewers: { reviewer: { login: string } }[]
}

/** What waits for somebody's word, and the form to give it. */
function Review({ name, run }: { name: string; run: Run }) {
  const [open, setOpen] = useState(false)
  const [chosen, setChosen] = useState<ReadonlySet<number>>(new Set())
  const [comment, setComment] = useState('')
  const [error, setError] = useState('')
  const waiting = run.jobs.filter((j) => j.status === 'waiting').map((j) => j.id).join()
  const pending = useQuery({
    queryKey: ['pending', name, run.id, waiting], enabled: waiting !== '',
    queryFn: () => github<Pending[]>(`/repos/${name}/actions/runs/${run.id}/pending_deployments`),
  })
  const mine = (pending.data ?? []).filter((p) => p.current_user_can_approve)
  if (waiting === '' || mine.length === 0) return null
  const answer = (state: string) => async () => {
    setError('')
    const ids = chosen.size > 0 ? [...chosen] : mine.map((p) => p.environment.id)
    try {
      await send('POST', `/repos/${name}/actions/runs/${run.id}/pending_deployments`, { environment_ids: ids, state, comment })
      setOpen(false)
      await queries.invalidateQueries({ queryKey: ['run', name] })
    } catch (e) {
      setError((e as Error).message)
    }
  }
  return (
    <Alert color="yellow" mb="md" title={`Waits for your review: ${mine.map((p) => p.environment.name).join(', ')}`}>
      <Button onClick={() => setOpen(true)}>Review deployments</Button>
      <Modal opened={open} onClose={() => setOpen(false)} title="Review deployments" closeButtonProps={{ 'aria-label': 'Close' }}>
        <Stack>
          {mine.map((p) => (
            <Checkbox
              key={p.environment.id} label={p.environment.name} checked={chosen.size === 0 || chosen.has(p.environment.id)}
              onChange={(e) => setChosen(new Set(e.currentTarget.checked ? [...chosen, p.environment.id] : mine.map((m) => m.environment.id).filter((i) => i !== p.environment.id)))}
            />
          ))}
          <Textarea label="Comment" value={comment} onChange={(e) => setComment(e.currentTarget.value)} />
          {error && <Alert color="red" role="alert">{error}</Alert>}
          <Group justify="flex-end">
            <Button color="red" variant="light" onClick={answer('rejected')}>Reject</Button>
            <Button onClick={answer('approved')}>Approve and deploy</Button>
          </Group>
        </Stack>
      </Modal>
    </Alert>
  )
}
