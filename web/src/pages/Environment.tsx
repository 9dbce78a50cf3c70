import { Alert, Anchor, Button, Checkbox, Group, Paper, Stack, Table, Text, TextInput, Title } from '@mantine/core'
import { useInfiniteQuery } from '@tanstack/react-query'
import { Link, useParams } from '@tanstack/react-router'
import { useEffect, useState } from 'react'
import { native, queries, sendNative } from '../api'
import { ago, duration } from '../format'
import { useEnvironment, useRelease } from '../live'
import { Branch, Empty, Problem, RepositoryHead, State, useNow, useRepository, Waiting, WideTable } from '../parts'
import { isTakenBack, isUnderWay, isWebAddress, stateOf, type EnvironmentView, type Release } from '../release'
import { Charts, seriesClass, Swatch } from './Charts'
import { Checks, Restored, Rights, TakenBack, Timeline, UnderWay } from './Release'
import { Ask } from './Steer'
import { Teach, useDeclared } from './Teach'

export function EnvironmentPage() {
  const { owner, repo, environment } = useParams({ strict: false }) as { owner: string; repo: string; environment: string }
  const name = `${owner}/${repo}`
  const path = `/repos/${name}/environments/${encodeURIComponent(environment)}`
  const home = `/${name}/environments/${encodeURIComponent(environment)}`
  const [asking, ask] = useState(false)
  const query = useEnvironment(path)
  const declared = useDeclared(name)
  const view = query.data
  const newest = view?.releases[0]
  const release = useRelease(path, newest?.number, view)
  const now = useNow(view !== undefined && view.releases.length > 0)
  useEffect(() => {
    document.title = `${environment} · ${name} · Penstock`
  }, [environment, name])
  const shown = view?.releases.filter((r) => isUnderWay(r) || r === newest) ?? []
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="environments" />
      <Group justify="space-between" mb="md">
        <Title order={2} size="h3">{view?.environment ?? environment}</Title>
        {view && (view.may_release ? <Button onClick={() => ask(true)}>Release</Button> : <Rights may={false} />)}
      </Group>
      {asking && view && <Begin name={name} view={view} services={declared.data?.environments.find((e) => e.name.toLowerCase() === environment.toLowerCase())?.services ?? view.services.map((s) => s.name)} close={() => ask(false)} />}
      {query.error && (view ? <Text size="sm" c="red" role="alert" mb="sm">{query.error.message}, trying again</Text> : <Problem error={query.error} />)}
      {query.isPending && <Waiting what="the environment" />}
      {view && view.releases.length === 0 && declared.data && (
        <Empty title="Nothing serves here"><Teach declared={declared.data} environment={environment} may={view.may_release} /></Empty>
      )}
      {view && (
        <Stack gap="lg">
          {view.taken_back && <TakenBack release={view.taken_back} home={home} now={now} />}
          {view.services.length > 0 && <Serving view={view} />}
          {shown.map((r) => <UnderWay key={r.id} name={name} home={home} release={r} now={now} may={view.may_release} />)}
          {view.releases.length > 0 && <Charts path={path} />}
          {newest && <Checks release={newest} now={now} />}
          {newest && release.data?.id === newest.id && <Timeline release={release.data} now={now} />}
          <History name={name} path={path} home={home} view={view} now={now} />
        </Stack>
      )}
    </>
  )
}

/** What serves, where it is found, and how traffic is divided. */
export function Serving({ view }: { view: EnvironmentView }) {
  return (
    <Paper withBorder p="md" component="section" aria-label="Serves now">
      <Title order={3} size="h4" mb="xs">Serves now</Title>
      <Stack gap="sm">
        {alike(view.services).map((group) => (
          <div key={group[0]!.name}>
            {group.map((s) => (
              <Group key={s.name} gap="xs" mb={4}>
                <Text fw={600} className="wrap">{s.name}</Text>
                {!s.urls?.length && <Text size="sm" c="dimmed">Nothing leads here: that takes hosts in penstock.yaml, and serve --proxy.</Text>}
                {(s.urls ?? []).map((url) => (isWebAddress(url) ? <Anchor key={url} href={url} rel="noreferrer noopener" size="sm" className="wrap">{url.replace(/^https?:\/\//, '')}</Anchor> : <Text key={url} size="sm">{url}</Text>))}
              </Group>
            ))}
            <Shares shares={group[0]!.shares} services={group.map((s) => s.name).join(', ')} />
          </div>
        ))}
      </Stack>
    </Paper>
  )
}

/** Services by how their traffic is divided: those that are released together are one. */
function alike(services: EnvironmentView['services']) {
  const groups = new Map<string, EnvironmentView['services']>()
  for (const s of services) {
    const key = JSON.stringify(s.shares)
    groups.set(key, [...(groups.get(key) ?? []), s])
  }
  return [...groups.values()]
}

function Shares({ shares, services }: { shares: EnvironmentView['services'][number]['shares']; services: string }) {
  const newestLast = [...shares].sort((a, b) => a.number - b.number)
  return (
    <>
      <div className="shares" aria-hidden="true">
        {newestLast.map((s) => <span key={s.release} className={s === newestLast.at(-1) ? seriesClass(s.number) : `${seriesClass(s.number)} older`} style={{ width: `${s.percent}%` }} />)}
      </div>
      <ul className="values" aria-label={`Traffic of ${services}`}>
        {newestLast.map((s) => (
          <li key={s.release}><Swatch number={s.number} older={s !== newestLast.at(-1)} /> {s.number ? `v${s.number}` : 'an older one'} {s.percent} %</li>
        ))}
      </ul>
    </>
  )
}

/** The form that begins a release. */
function Begin({ name, view, services, close }: { name: string; view: EnvironmentView; services: string[]; close: () => void }) {
  const repository = useRepository(name)
  const [image, setImage] = useState('')
  const [ref, setRef] = useState('')
  const [chosen, setChosen] = useState(services)
  const [reason, setReason] = useState('')
  const some = chosen.length < services.length
  const superseded = view.releases.find((r) => isUnderWay(r) && r.phase !== 'watching' && r.phase !== 'reverting')
  const one = chosen.length === 1 ? chosen[0] : undefined
  const act = async () => {
    if (services.length > 0 && chosen.length === 0) throw new Error('Choose a service.')
    await sendNative('POST', `/repos/${name}/releases`, { environment: view.environment, ref, reason, services: some ? chosen : undefined, images: one && image ? { [one]: image } : undefined })
  }
  return (
    <Ask title={`Release to ${view.environment}`} button="Release" act={act} close={close}>
      {superseded && <Alert color="yellow">v{superseded.number} is under way: it is taken back, and the new release begins.</Alert>}
      <TextInput label="Branch, tag or commit" placeholder={repository.data?.default_branch} value={ref} onChange={(e) => setRef(e.currentTarget.value)} data-autofocus />
      {services.length > 1 && (
        <Checkbox.Group label="Services" value={chosen} onChange={setChosen}>
          <Group mt={4}>{services.map((s) => <Checkbox key={s} value={s} label={s} />)}</Group>
        </Checkbox.Group>
      )}
      {one && <TextInput label="Image" description={`In place of what penstock.yaml says of ${one}`} value={image} onChange={(e) => setImage(e.currentTarget.value)} />}
      <TextInput label="Reason" value={reason} onChange={(e) => setReason(e.currentTarget.value)} />
    </Ask>
  )
}

const perPage = 30

/** All releases of the environment, the newest first, each with the way back to it. */
function History({ name, path, home, view, now }: { name: string; path: string; home: string; view: EnvironmentView; now: number }) {
  const [back, setBack] = useState<Release>()
  const history = useInfiniteQuery({
    queryKey: ['history', path], initialPageParam: 0,
    queryFn: ({ pageParam, signal }) => native<Release[]>(`${path}/history?per_page=${perPage}${pageParam ? `&before=${pageParam}` : ''}`, signal),
    getNextPageParam: (last) => (last.length < perPage ? undefined : last[last.length - 1]!.id),
  })
  const outcomes = view.releases.map((r) => `${r.id} ${r.phase}`).join()
  useEffect(() => void queries.invalidateQueries({ queryKey: ['history', path] }), [path, outcomes])
  const all = history.data?.pages.flat() ?? []
  const serving = new Set(view.services.map((s) => s.serving))
  if (history.error) return <Problem error={history.error} />
  if (all.length === 0) return null
  return (
    <Paper withBorder p="md" component="section" aria-label="History">
      <Title order={3} size="h4" mb={4}>History</Title>
      <WideTable width={960} label="Releases">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Version</Table.Th>
            <Table.Th>Outcome</Table.Th>
            <Table.Th>Commit</Table.Th>
            <Table.Th>By</Table.Th>
            <Table.Th>When</Table.Th>
            <Table.Th>Took</Table.Th>
            <Table.Th>Why</Table.Th>
            <Table.Th aria-label="Go back" />
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {all.map((r) => {
            const state = stateOf(r)
            return (
              <Table.Tr key={r.id}>
                <Table.Th scope="row"><Anchor component={Link} to={`${home}/${r.number}`} size="sm">v{r.number}</Anchor></Table.Th>
                <Table.Td><Group gap={6} wrap="nowrap"><State {...state} silent />{state.text}</Group></Table.Td>
                <Table.Td><Group gap="xs"><Branch name={r.plan.ref} /><Text size="sm" ff="monospace">{r.plan.sha?.slice(0, 7)}</Text></Group></Table.Td>
                <Table.Td>{r.plan.by}</Table.Td>
                <Table.Td><span title={r.began}>{ago(r.began, now)}</span></Table.Td>
                <Table.Td>{duration(r.began, r.ended, now)}</Table.Td>
                <Table.Td><Text size="sm" lineClamp={2} className="wrap" maw={320}>{r.plan.restores && <>restores <Restored release={r} home={home} />{(r.plan.reason || isTakenBack(r)) && ': '}</>}{isTakenBack(r) && r.reason ? r.reason : r.plan.reason}</Text></Table.Td>
                <Table.Td ta="right">
                  {view.may_release && r.outcome === 'released' && !serving.has(r.id) && <Button size="compact-xs" variant="subtle" aria-label={`Roll back to v${r.number}`} onClick={() => setBack(r)}>Roll back to this</Button>}
                </Table.Td>
              </Table.Tr>
            )
          })}
        </Table.Tbody>
      </WideTable>
      {history.hasNextPage && <Button mt="xs" variant="default" loading={history.isFetchingNextPage} onClick={() => void history.fetchNextPage()}>Show older ones</Button>}
      {back && <RollBack name={name} view={view} to={back} close={() => setBack(undefined)} />}
    </Paper>
  )
}

function RollBack({ name, view, to, close }: { name: string; view: EnvironmentView; to: Release; close: () => void }) {
  const [reason, setReason] = useState('')
  return (
    <Ask
      title={`Roll back ${view.environment} to v${to.number}`} button={`Roll back to v${to.number}`} danger close={close}
      act={() => sendNative('POST', `/repos/${name}/environments/${encodeURIComponent(view.environment)}/rollback`, { to: to.number, reason })}
    >
      <Text size="sm">A new release starts the revision of v{to.number} again, with its image or files, configuration and secrets, and gives it all traffic when it is healthy, without analysis.</Text>
      <TextInput label="Reason" description="Kept in the timeline and the audit log" value={reason} onChange={(e) => setReason(e.currentTarget.value)} data-autofocus />
    </Ask>
  )
}

/** What serves in an environment, in a line or two, for the list of environments. */
export function ServesNow({ view }: { view: EnvironmentView }) {
  const under = view.releases.find(isUnderWay)
  return (
    <Stack gap={4} mb="sm">
      {view.services.map((s) => (
        <Group key={s.name} gap="xs">
          <Text size="sm" fw={600}>{s.name}</Text>
          <Text size="sm">{s.shares.filter((x) => x.percent > 0).map((x) => `v${x.number} ${x.percent} %`).join(', ')}</Text>
          {(s.urls ?? []).filter(isWebAddress).map((url) => <Anchor key={url} href={url} rel="noreferrer noopener" size="sm" className="wrap">{url.replace(/^https?:\/\//, '')}</Anchor>)}
        </Group>
      ))}
      {under && <Group gap="xs"><State {...stateOf(under)} silent /><Text size="sm">v{under.number}: {stateOf(under).text}</Text></Group>}
    </Stack>
  )
}
