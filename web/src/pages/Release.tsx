import { Alert, Anchor, Button, Code, Group, Paper, Stack, Table, Text, Title } from '@mantine/core'
import { Link, useParams } from '@tanstack/react-router'
import { useEffect, useState } from 'react'
import { ago, clock, duration, localTimes, short, size } from '../format'
import { useEnvironment, useRelease } from '../live'
import { Branch, Problem, RepositoryHead, Said, State, useNow, Waiting, WideTable } from '../parts'
import { isOver, isTakenBack, machineOf, source, stateOf, strategyWords, unitOf, way, type Check, type Release } from '../release'
import { Charts } from './Charts'
import { Output } from './Output'
import { GateForm, Steer } from './Steer'

export function ReleasePage() {
  const { owner, repo, environment, number } = useParams({ strict: false }) as { owner: string; repo: string; environment: string; number: string }
  const name = `${owner}/${repo}`
  const path = `/repos/${name}/environments/${encodeURIComponent(environment)}`
  const home = `/${name}/environments/${encodeURIComponent(environment)}`
  const live = useEnvironment(path)
  const query = useRelease(path, Number(number), live.data)
  const r = query.data?.number === Number(number) ? query.data : undefined
  const state = r && stateOf(r)
  const now = useNow(r !== undefined && !isOver(r))
  useEffect(() => {
    if (r) document.title = `${stateOf(r).text}: v${r.number} in ${environment} · ${name}`
  }, [r, environment, name])
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="environments" />
      {!r && query.error && <Problem error={query.error} />}
      {!r && query.isPending && <Waiting what="the release" />}
      {r && state && (
        <Stack>
          <Group gap="sm" wrap="nowrap">
            <State {...state} size={26} silent />
            <div>
              <Title order={2} size="h3">
                <Anchor component={Link} to={home} activeOptions={{ exact: true }} inherit underline="always">{environment}</Anchor> v{r.number} <Text span c="dimmed" fw={400} inherit>{state.text}</Text>
              </Title>
              <Made release={r} now={now} />
            </div>
          </Group>
          {live.data && <Rights may={live.data.may_release} />}
          <TakenBack release={r} now={now} />
          <Progress name={name} release={r} now={now} may={live.data?.may_release ?? false} />
          <PlanPart name={name} home={home} release={r} />
          {!isOver(r) && <Charts path={path} />}
          <Checks release={r} now={now} />
          <Timeline release={r} now={now} />
          <Output path={path} release={r} />
        </Stack>
      )}
    </>
  )
}

/** What a release was made of, by whom and when. */
export function Made({ release: r, now }: { release: Release; now: number }) {
  return (
    <Group gap="xs">
      <Text size="sm" c="dimmed">by {r.plan.by} · <span title={r.began}>{ago(r.began, now)}</span> · {duration(r.began, r.ended, now)}</Text>
      <Branch name={r.plan.ref} />
      {r.plan.sha && <Text size="sm" c="dimmed" ff="monospace">{r.plan.sha.slice(0, 7)}</Text>}
      {r.plan.reason && <Text size="sm" c="dimmed" className="wrap">“{r.plan.reason}”</Text>}
    </Group>
  )
}

/** Why a release was taken back. */
export function TakenBack({ release: r, now, home }: { release: Release; now: number; home?: string }) {
  if (!isTakenBack(r) || !r.reason) return null
  const to = home && <Anchor component={Link} to={`${home}/${r.number}`} inherit underline="always">v{r.number}</Anchor>
  return (
    <Alert color={r.phase === 'failed' || r.phase === 'reverting' ? 'red' : 'yellow'} title={to ? <span>{to} {stateOf(r).text.toLowerCase()} <Text span inherit fw={400}>{ago(r.ended, now)}</Text></span> : stateOf(r).text}>
      <Said text={r.reason} now={now} />
    </Alert>
  )
}

/** Says to who only looks on why there are no buttons. */
export function Rights({ may }: { may: boolean }) {
  return may ? null : <Text size="sm" c="dimmed">You look on: to release takes the role write in this repository.</Text>
}

/** The release whose revision one brings back. */
export function Restored({ release: r, home }: { release: Release; home: string }) {
  return r.restores ? <Anchor component={Link} to={`${home}/${r.restores}`} inherit underline="always">v{r.restores}</Anchor> : 'an older revision'
}

/** Where a release is on its way, what it waits for, what it runs, and the buttons that steer it. */
export function Progress({ name, release: r, now, may }: { name: string; release: Release; now: number; may: boolean }) {
  const gate = r.gate && r.gate.kind !== 'paused' ? r.gate : undefined
  return (
    <Paper withBorder p="md" component="section" aria-label={`Progress of v${r.number}`}>
      <Stack gap="sm">
        <ol className="way" aria-label="The way of the release">
          {way(r).map((s) => (
            <li key={s.phase} className={s.state} aria-current={s.state === 'now' ? 'step' : undefined}>
              <State {...signs[s.state]} silent />
              <span>{s.title}</span>
              <span className="hidden">{s.state === 'done' ? ', done' : s.state === 'failed' ? ', taken back here' : s.state === 'ahead' ? ', still to come' : ''}</span>
            </li>
          ))}
        </ol>
        {r.waits && (gate ? (
          <Alert color="yellow" title={waitsFor(gate.kind)}>
            <Stack gap="xs" align="flex-start">
              <span className="wrap">{localTimes(r.waits, now)}</span>
              <GateForm name={name} release={r} gate={gate} may={may} />
            </Stack>
          </Alert>
        ) : <Text size="sm" className="wrap">{localTimes(r.waits, now)}</Text>)}
        {may && !isOver(r) && <Steer name={name} release={r} />}
        <Instances release={r} now={now} />
      </Stack>
    </Paper>
  )
}

const waitsFor = (kind: string) => (kind === 'review' ? 'Waits for a review' : kind === 'inconclusive' ? 'Waits for a verdict' : ['ready', 'promotion', 'termination'].includes(kind) ? 'Waits for approval' : `Waits for ${kind}`)

const signs = {
  done: { status: 'completed', conclusion: 'success' }, now: { status: 'in_progress' }, ahead: { status: 'pending' }, failed: { status: 'completed', conclusion: 'failure' },
}

const instanceSigns = {
  starting: { status: 'in_progress' }, healthy: { status: 'completed', conclusion: 'success' }, ill: { status: 'completed', conclusion: 'failure' },
  exited: { status: 'completed', conclusion: 'failure' }, stopped: { status: 'completed', conclusion: 'skipped' },
}

/** The instances of a release by service, each with its state and why it is so. */
export function Instances({ release: r, now }: { release: Release; now: number }) {
  const parts = r.parts.filter((p) => p.instances?.length)
  if (parts.length === 0) return null
  return (
    <Table aria-label={`Instances of v${r.number}`} layout="fixed">
      <Table.Tbody>
        {parts.map((p) => (
          <Table.Tr key={p.service}>
            <Table.Th scope="row" w="30%" fw={400} className="wrap">{p.service}</Table.Th>
            <Table.Td>
              <ul className="instances">
                {p.instances!.map((i) => (
                  <li key={i.index}>
                    <Group gap={6} wrap="nowrap">
                      <State {...instanceSigns[i.state]} silent />
                      <span>{i.index} {i.state} <Text span size="sm" c="dimmed">{duration(i.since, undefined, now)}{i.restarts ? ` · ${i.restarts} ${i.restarts === 1 ? 'restart' : 'restarts'}` : ''}{machineOf(r.plan, i.index) && ` · on ${machineOf(r.plan, i.index)}`}</Text></span>
                    </Group>
                    {i.state !== 'healthy' && i.reason && <Text size="sm" c="dimmed" component="div"><Said text={i.reason} now={now} /></Text>}
                  </li>
                ))}
              </ul>
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  )
}

function PlanPart({ name, home, release: r }: { name: string; home: string; release: Release }) {
  const { plan } = r
  return (
    <Paper withBorder p="md" component="section" aria-label="Plan">
      <Title order={3} size="h4" mb={4}>Plan</Title>
      <Text size="sm" mb="xs">{plan.restores ? <>Restores <Restored release={r} home={home} />: it takes all traffic as soon as it is healthy, without analysis.</> : `${strategyWords(plan.strategy)}.`}{plan.run && <> Asked for by <Anchor component={Link} to={`/${name}/actions/runs/${plan.run}`} size="sm" underline="always">a run</Anchor>.</>}</Text>
      {plan.sha && <Text size="sm" mb="xs">Commit <Code className="wrap">{plan.sha}</Code></Text>}
      <WideTable width={640} label="Services of the release">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Service</Table.Th>
            <Table.Th>Revision</Table.Th>
            <Table.Th>Made of</Table.Th>
            <Table.Th>Instances</Table.Th>
            <Table.Th>Port</Table.Th>
            <Table.Th>Memory</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {plan.services.map((s) => (
            <Table.Tr key={s.name}>
              <Table.Th scope="row">{s.name}</Table.Th>
              <Table.Td><Code title={s.revision.id}>{s.revision.id.slice(0, 12)}</Code></Table.Td>
              <Table.Td className="wrap"><span title={s.revision.image ?? s.revision.artifact}>{source(s.revision)}</span></Table.Td>
              <Table.Td>{s.instances || 1}</Table.Td>
              <Table.Td>{s.revision.port}</Table.Td>
              <Table.Td>{s.revision.memory ? size(s.revision.memory) : '–'}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </WideTable>
    </Paper>
  )
}

const verdicts = {
  pass: { text: 'Pass', status: 'completed', conclusion: 'success' }, fail: { text: 'Fail', status: 'completed', conclusion: 'failure' }, inconclusive: { text: 'Inconclusive', status: 'waiting' },
}

/** The checks of the last look, each with all that it was judged by. */
export function Checks({ release: { number, checks, failed_checks: failed, plan, phase }, now }: { release: Release; now: number }) {
  if (!checks?.length) return null
  const allowed = plan.strategy.analysis?.threshold || 1
  const measured = (c: Check, v?: number) => (v === undefined ? '–' : short(v) + unitOf(c.name))
  return (
    <Paper withBorder p="md" component="section" aria-label="Analysis">
      <Group justify="space-between" mb={4}>
        <Title order={3} size="h4">Analysis of v{number}</Title>
        <Text size="sm" c="dimmed">looked {ago(checks[0]!.at, now)}{failed && phase === 'shifting' ? `, ${failed} of ${allowed} failed looks that are allowed` : ''}</Text>
      </Group>
      <WideTable width={860} label="Checks">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Check</Table.Th>
            <Table.Th w={120}>Verdict</Table.Th>
            <Table.Th w={90}>New</Table.Th>
            <Table.Th w={90}>Old</Table.Th>
            <Table.Th w={80}>Sample</Table.Th>
            <Table.Th w={180}>Limit</Table.Th>
            <Table.Th>Why</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {checks.map((c) => (
            <Table.Tr key={c.name}>
              <Table.Th scope="row">
                {c.name}
                {c.query && <details className="more"><summary>Query</summary><Code block className="command">{c.query}</Code></details>}
              </Table.Th>
              <Table.Td><Group gap={6} wrap="nowrap"><State {...verdicts[c.verdict]} silent />{verdicts[c.verdict].text}</Group></Table.Td>
              <Table.Td>{measured(c, c.value)}</Table.Td>
              <Table.Td>{measured(c, c.old)}</Table.Td>
              <Table.Td>{c.sample ?? '–'}</Table.Td>
              <Table.Td>{c.limit}</Table.Td>
              <Table.Td className="wrap">{c.reason}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </WideTable>
    </Paper>
  )
}

const page = 50 // entries

/** What happened to a release, the newest first. */
export function Timeline({ release: { number, timeline: entries }, now }: { release: Release; now: number }) {
  const [count, setCount] = useState(page)
  if (!entries?.length) return null
  const shown = [...entries].reverse()
  return (
    <Paper withBorder p="md" component="section" aria-label="Timeline">
      <Title order={3} size="h4" mb="xs">Timeline of v{number}</Title>
      <ol className="timeline" reversed>
        {shown.slice(0, count).map((e, i) => (
          <li key={shown.length - i} className={e.warning ? 'warning' : undefined}>
            <time dateTime={e.at} title={ago(e.at, now)}>{clock(e.at, now)}</time>
            <div>
              {e.warning && <span className="hidden">Warning: </span>}
              <Said text={e.text} now={now}>
                {e.count && <Text span size="sm" c="dimmed"> {e.count} times, until {clock(e.until!, now)}</Text>}
                {e.by && !e.text.includes(e.by) && <Text span size="sm" c="dimmed"> by {e.by}</Text>}
              </Said>
            </div>
          </li>
        ))}
      </ol>
      {shown.length > count && <Button variant="default" mt="xs" onClick={() => setCount(count + 4 * page)}>Show what was before</Button>}
    </Paper>
  )
}

/** A release under way: its head, and its progress. */
export function UnderWay({ name, home, release: r, now, may }: { name: string; home: string; release: Release; now: number; may: boolean }) {
  const state = stateOf(r)
  return (
    <Stack gap="xs" component="section" aria-label={`v${r.number}`}>
      <Group gap="sm" wrap="nowrap" align="flex-start">
        <span className="sign-line"><State {...state} size={20} silent /></span>
        <div>
          <Title order={3} size="h4">
            <Anchor component={Link} to={`${home}/${r.number}`} inherit underline="always">v{r.number}</Anchor> <Text span inherit fw={400} role="status">{state.text}</Text>
          </Title>
          <Made release={r} now={now} />
          <Text size="sm" c="dimmed">{r.plan.restores ? <>Restores <Restored release={r} home={home} /></> : strategyWords(r.plan.strategy)}</Text>
        </div>
      </Group>
      <TakenBack release={r} now={now} />
      <Progress name={name} release={r} now={now} may={may} />
    </Stack>
  )
}
