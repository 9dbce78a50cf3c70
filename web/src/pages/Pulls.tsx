import { Alert, Anchor, Badge, Button, Code, Group, Paper, SegmentedControl, Stack, Table, Text, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { Link, useParams } from '@tanstack/react-router'
import { useEffect, useState } from 'react'
import { github, listen, queries, send, type Pull } from '../api'
import { ago } from '../format'
import { Branch, Empty, Problem, Prose, RepositoryHead, State, useRepository, Waiting } from '../parts'

interface Check {
  id: number
  name: string
  status: string
  conclusion: string | null
  html_url: string
}

export function Pulls() {
  const { owner, repo } = useParams({ strict: false }) as { owner: string; repo: string }
  const [state, setState] = useState('open')
  const list = useQuery({ queryKey: ['pulls', owner, repo, state], queryFn: () => github<Pull[]>(`/repos/${owner}/${repo}/pulls?per_page=100&state=${state}`) })
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="pulls" />
      <SegmentedControl mb="sm" value={state} onChange={setState} data={[{ value: 'open', label: 'Open' }, { value: 'closed', label: 'Closed' }]} aria-label="State" />
      {list.isPending && <Waiting what="pull requests" />}
      {list.error && <Problem error={list.error} />}
      {list.data?.length === 0 && (
        <Empty title={`No ${state} pull requests`}>
          Push a branch for review, and one is opened:
          <Code block mt="sm" ta="left">git push origin HEAD:refs/for/main</Code>
        </Empty>
      )}
      {list.data && list.data.length > 0 && (
        <Table highlightOnHover>
          <Table.Tbody>
            {list.data.map((p) => (
              <Table.Tr key={p.number}>
                <Table.Td>
                  <Group gap="xs">
                    <Anchor component={Link} to={`/${owner}/${repo}/pull/${p.number}`} fw={600} c="inherit">{p.title}</Anchor>
                    {p.draft && <Badge variant="outline" color="gray">draft</Badge>}
                    {p.labels.map((l) => <Badge key={l.name} variant="light" color="gray" tt="none">{l.name}</Badge>)}
                  </Group>
                  <Text size="xs" c="dimmed">#{p.number} by {p.user.login} · {ago(p.created_at)}</Text>
                </Table.Td>
                <Table.Td><Branch name={p.head.ref} /></Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
    </>
  )
}

export function PullPage() {
  const { owner, repo, number } = useParams({ strict: false }) as { owner: string; repo: string; number: string }
  const base = `/repos/${owner}/${repo}`
  const [error, setError] = useState('')
  const pull = useQuery({ queryKey: ['pull', base, number], queryFn: () => github<Pull>(`${base}/pulls/${number}`) })
  const sha = pull.data?.head.sha
  const repository = useRepository(`${owner}/${repo}`)
  const checks = useQuery({ queryKey: ['checks', base, sha], enabled: !!sha, queryFn: () => github<{ check_runs: Check[] }>(`${base}/commits/${sha}/check-runs?per_page=100`) })
  const files = useQuery({ queryKey: ['files', base, number, sha], enabled: !!sha, queryFn: () => github<{ filename: string; status: string; additions: number; deletions: number; patch?: string }[]>(`${base}/pulls/${number}/files?per_page=100`) })
  useEffect(() => listen(`/repos/${owner}/${repo}/events`, () => queries.invalidateQueries({ queryKey: ['checks', base] })), [owner, repo])
  if (pull.isPending) return <Waiting what="the pull request" />
  if (pull.error) return <Problem error={pull.error} />
  const p = pull.data
  const act = (method: string, path: string, body: object) => async () => {
    setError('')
    try {
      await send(method, path, body)
      await queries.invalidateQueries()
    } catch (e) {
      setError((e as Error).message)
    }
  }
  const state = p.merged ? 'merged' : p.state
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="pulls" />
      <Stack>
        <Group justify="space-between" wrap="wrap">
          <div>
            <Title order={2} size="h3">{p.title} <Text span c="dimmed" fw={400} inherit>#{p.number}</Text></Title>
            <Group gap="xs" mt={4}>
              <Badge variant="default">{state}</Badge>
              <Text size="sm" c="dimmed">{p.user.login} wants to merge</Text>
              <Branch name={p.head.ref} />
              <Text size="sm" c="dimmed">into</Text>
              <Branch name={p.base.ref} />
            </Group>
          </div>
          {p.state === 'open' && repository.data?.permissions.push && (
            <Group gap="xs">
              {['merge', 'squash', 'rebase'].map((m) => (
                <Button key={m} variant={m === 'merge' ? 'filled' : 'default'} disabled={p.mergeable === false || p.draft} onClick={act('PUT', `${base}/pulls/${number}/merge`, { merge_method: m, sha: p.head.sha })}>
                  {m === 'merge' ? 'Merge' : m === 'squash' ? 'Squash and merge' : 'Rebase and merge'}
                </Button>
              ))}
              <Button variant="subtle" color="red" onClick={act('PATCH', `${base}/pulls/${number}`, { state: 'closed' })}>Close</Button>
            </Group>
          )}
        </Group>
        {error && <Problem error={error} />}
        {p.mergeable === false && p.state === 'open' && <Alert color="yellow">It can not be merged: the branches conflict.</Alert>}
        {p.body && <Paper withBorder p="md"><Prose>{p.body}</Prose></Paper>}
        <section aria-label="Checks">
          <Title order={3} size="h4" mb="xs">Checks</Title>
          {checks.data?.check_runs.length === 0 && <Text c="dimmed" size="sm">No workflow ran for this commit.</Text>}
          <Stack gap={6}>
            {checks.data?.check_runs.map((c) => (
              <Group key={c.id} gap="xs">
                <State status={c.status} conclusion={c.conclusion} />
                <Anchor href={new URL(c.html_url).pathname} size="sm">{c.name}</Anchor>
              </Group>
            ))}
          </Stack>
        </section>
        <section aria-label="Changes">
          <Title order={3} size="h4" mb="xs">Changes</Title>
          <Stack gap="sm">
            {files.data?.map((f) => (
              <Paper withBorder key={f.filename}>
                <Group justify="space-between" p="xs">
                  <Text size="sm" ff="monospace">{f.filename}</Text>
                  <Text size="xs" c="dimmed">{f.status} +{f.additions} −{f.deletions}</Text>
                </Group>
                {f.patch && <Patch text={f.patch} name={f.filename} />}
              </Paper>
            ))}
          </Stack>
        </section>
      </Stack>
    </>
  )
}

function Patch({ text, name }: { text: string; name: string }) {
  const lines = text.split('\n')
  return (
    <div className="patch" tabIndex={0} role="region" aria-label={`Changes of ${name}`}>
      {lines.slice(0, 2000).map((l, i) => (
        <div key={i} className={l.startsWith('+') ? 'add' : l.startsWith('-') ? 'del' : l.startsWith('@@') ? 'hunk' : undefined}>{l || ' '}</div>
      ))}
      {lines.length > 2000 && <div className="hunk">{lines.length - 2000} more lines</div>}
    </div>
  )
}
