import { Anchor, Badge, Code, Group, Paper, Stack, Table, Text, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { Link, useParams } from '@tanstack/react-router'
import { github, native } from '../api'
import { ago } from '../format'
import { Branch, Empty, Problem, RepositoryHead, State, Waiting } from '../parts'
import type { EnvironmentView } from '../release'
import { ServesNow } from './Environment'
import { Teach, useDeclared } from './Teach'

interface Environment {
  id: number
  name: string
  protection_rules: { type: string; wait_timer?: number; prevent_self_review?: boolean; reviewers?: { reviewer: { login: string } }[] }[]
  deployment_branch_policy: { protected_branches: boolean } | null
}

interface Deployment {
  id: number
  ref: string
  sha: string
  creator: { login: string } | null
  created_at: string
}

interface Status {
  state: string
  environment_url: string
  log_url: string
}

export function Environments() {
  const { owner, repo } = useParams({ strict: false }) as { owner: string; repo: string }
  const base = `/repos/${owner}/${repo}`
  const list = useQuery({ queryKey: ['environments', base], queryFn: () => github<{ environments: Environment[] }>(`${base}/environments?per_page=100`) })
  const declared = useDeclared(`${owner}/${repo}`)
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="environments" />
      {list.isPending && <Waiting what="environments" />}
      {list.error && <Problem error={list.error} />}
      {list.data?.environments.length === 0 && declared.data?.environments.length === 0 && (
        <Empty title="No environments yet">
          <Teach declared={declared.data} may />
          <Text size="sm" ta="left" mt="md">A job that names one makes it, too:</Text>
          <Code block mt="xs" ta="left">{'jobs:\n  deploy:\n    environment: production'}</Code>
        </Empty>
      )}
      {declared.data?.mistake && list.data?.environments.length !== 0 && <Teach declared={declared.data} may />}
      <Stack>
        {list.data?.environments.map((e) => <Card key={e.id} base={base} environment={e} />)}
        {declared.data && list.data && declared.data.environments.filter((d) => !list.data.environments.some((e) => e.name.toLowerCase() === d.name.toLowerCase())).map((d) => (
          <Paper key={d.name} withBorder p="md" component="section" aria-label={d.name}>
            <Title order={2} size="h4" mb={4}><Anchor component={Link} to={`/${owner}/${repo}/environments/${encodeURIComponent(d.name)}`} inherit>{d.name}</Anchor></Title>
            <Text size="sm" c="dimmed">Nothing was released yet: penstock.yaml releases {d.services.join(', ')} here.</Text>
          </Paper>
        ))}
      </Stack>
    </>
  )
}

function Card({ base, environment: e }: { base: string; environment: Environment }) {
  const deployments = useQuery({ queryKey: ['deployments', base, e.name], queryFn: () => github<Deployment[]>(`${base}/deployments?per_page=10&environment=${encodeURIComponent(e.name)}`) })
  const path = `${base}/environments/${encodeURIComponent(e.name)}`
  const serves = useQuery({ queryKey: ['serves', path], refetchInterval: 10_000, retry: false, queryFn: ({ signal }) => native<EnvironmentView>(path, signal) })
  const rules = e.protection_rules.map((r) =>
    r.type === 'wait_timer' ? `waits ${r.wait_timer} minutes`
      : r.type === 'required_reviewers' ? `reviewed by ${r.reviewers?.map((x) => x.reviewer.login).join(', ')}${r.prevent_self_review ? ', not by who began it' : ''}`
        : e.deployment_branch_policy?.protected_branches ? 'only the default branch' : 'only some branches and tags')
  return (
    <Paper withBorder p="md" component="section" aria-label={e.name}>
      <Group justify="space-between" mb="xs">
        <Title order={2} size="h4"><Anchor component={Link} to={path.replace('/repos', '')} inherit>{e.name}</Anchor></Title>
        <Group gap="xs">{rules.map((r) => <Badge key={r} variant="light" color="gray" tt="none">{r}</Badge>)}</Group>
      </Group>
      {serves.data && serves.data.releases.length > 0 && <ServesNow view={serves.data} />}
      {deployments.data?.length === 0 && !serves.data?.releases.length && <Text size="sm" c="dimmed">Nothing was deployed yet.</Text>}
      {deployments.data && deployments.data.length > 0 && (
        <Table aria-label={`Deployments to ${e.name}`}>
          <Table.Tbody>{deployments.data.map((d) => <Row key={d.id} base={base} deployment={d} />)}</Table.Tbody>
        </Table>
      )}
    </Paper>
  )
}

const signs: Record<string, { status: string; conclusion?: string }> = {
  success: { status: 'completed', conclusion: 'success' }, failure: { status: 'completed', conclusion: 'failure' }, error: { status: 'completed', conclusion: 'failure' },
  in_progress: { status: 'in_progress' }, waiting: { status: 'waiting' }, queued: { status: 'queued' },
}

function Row({ base, deployment: d }: { base: string; deployment: Deployment }) {
  const states = useQuery({ queryKey: ['states', base, d.id], queryFn: () => github<Status[]>(`${base}/deployments/${d.id}/statuses?per_page=10`) })
  const last = states.data?.[0]
  const log = states.data?.find((s) => s.log_url)?.log_url
  return (
    <Table.Tr>
      <Table.Td>
        {last && (
          <Group gap="xs" wrap="nowrap">
            <State {...(signs[last.state] ?? { status: 'completed', conclusion: 'skipped' })} silent />
            <Text size="sm">{last.state.replace('_', ' ')}</Text>
          </Group>
        )}
      </Table.Td>
      <Table.Td><Group gap="xs"><Branch name={d.ref} /><Text size="sm" ff="monospace">{d.sha.slice(0, 7)}</Text></Group></Table.Td>
      <Table.Td visibleFrom="sm"><Text size="sm">{d.creator?.login}</Text></Table.Td>
      <Table.Td><Text size="sm" title={d.created_at}>{ago(d.created_at)}</Text></Table.Td>
      <Table.Td>{log && <Anchor component={Link} to={new URL(log).pathname} size="sm">run</Anchor>}</Table.Td>
    </Table.Tr>
  )
}
