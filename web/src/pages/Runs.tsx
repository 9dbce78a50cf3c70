import { Anchor, Button, Code, Group, Modal, Pagination, Select, Stack, Table, Text, TextInput } from '@mantine/core'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { Link, useParams } from '@tanstack/react-router'
import { useEffect, useState } from 'react'
import { github, listen, queries, type Workflow, type WorkflowRun } from '../api'
import { ago, duration } from '../format'
import { Branch, Empty, Problem, RepositoryHead, State, useNow, useRepository, Waiting } from '../parts'
import { Dispatch } from './Dispatch'

const perPage = 25

export function Runs() {
  const { owner, repo } = useParams({ strict: false }) as { owner: string; repo: string }
  const name = `${owner}/${repo}`
  const [filter, setFilter] = useState({ workflow: '', branch: '', event: '', status: '' })
  const [page, setPage] = useState(1)
  const [asking, ask] = useState(false)
  const repository = useRepository(name)
  const workflows = useQuery({ queryKey: ['workflows', name], queryFn: () => github<{ workflows: Workflow[] }>(`/repos/${name}/actions/workflows?per_page=100`) })
  const query = new URLSearchParams({ per_page: String(perPage), page: String(page) })
  for (const k of ['branch', 'event', 'status'] as const) if (filter[k]) query.set(k, filter[k])
  const path = filter.workflow ? `/repos/${name}/actions/workflows/${filter.workflow}/runs` : `/repos/${name}/actions/runs`
  const runs = useQuery({
    queryKey: ['runs', name, filter, page], placeholderData: keepPreviousData,
    queryFn: () => github<{ total_count: number; workflow_runs: WorkflowRun[] }>(`${path}?${query}`),
  })
  useEffect(() => listen(`/repos/${name}/events`, () => queries.invalidateQueries({ queryKey: ['runs', name] })), [name])
  const now = useNow(runs.data?.workflow_runs.some((r) => r.status !== 'completed') ?? false)
  const set = (key: keyof typeof filter) => (value: string | null) => {
    setFilter({ ...filter, [key]: value ?? '' })
    setPage(1)
  }
  const filtered = Object.values(filter).some(Boolean)
  return (
    <>
      <RepositoryHead owner={owner} repo={repo} tab="actions">
        <Button onClick={() => ask(true)} disabled={!repository.data?.permissions.push}>
          Run a workflow
        </Button>
      </RepositoryHead>
      <Modal opened={asking} onClose={() => ask(false)} title="Run a workflow" closeButtonProps={{ 'aria-label': 'Close' }}>
        <Dispatch name={name} branch={repository.data?.default_branch ?? 'main'} workflows={workflows.data?.workflows ?? []} done={() => ask(false)} />
      </Modal>
      <Group mb="sm" gap="xs">
        <Select aria-label="Workflow" placeholder="Workflow" clearable data={(workflows.data?.workflows ?? []).map((w) => ({ value: String(w.id), label: w.name }))} value={filter.workflow || null} onChange={set('workflow')} w={180} />
        <TextInput aria-label="Branch" placeholder="Branch" value={filter.branch} onChange={(e) => set('branch')(e.currentTarget.value)} w={150} />
        <Select aria-label="Event" placeholder="Event" clearable data={['push', 'pull_request', 'workflow_dispatch', 'schedule', 'repository_dispatch', 'workflow_run', 'release', 'deployment', 'issue_comment']} value={filter.event || null} onChange={set('event')} w={180} />
        <Select aria-label="Status" placeholder="Status" clearable data={['queued', 'in_progress', 'waiting', 'success', 'failure', 'cancelled']} value={filter.status || null} onChange={set('status')} w={150} />
      </Group>
      {runs.isPending && <Waiting what="runs" />}
      {runs.error && <Problem error={runs.error} />}
      {runs.data && runs.data.workflow_runs.length === 0 && (
        <Empty title={filtered ? 'No run fits' : 'No runs yet'}>
          {!filtered && (
            <>
              Push a workflow, and it runs:
              <Code block mt="sm" ta="left">{`git add .github/workflows\ngit commit -m "Add CI"\ngit push`}</Code>
            </>
          )}
        </Empty>
      )}
      {runs.data && runs.data.workflow_runs.length > 0 && (
        <Stack>
          <Table highlightOnHover aria-label="Runs">
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Run</Table.Th>
                <Table.Th visibleFrom="sm">Branch</Table.Th>
                <Table.Th visibleFrom="md">Event</Table.Th>
                <Table.Th visibleFrom="sm">When</Table.Th>
                <Table.Th>Took</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {runs.data.workflow_runs.map((r) => (
                <Table.Tr key={r.id}>
                  <Table.Td>
                    <Group gap="sm" wrap="nowrap" align="flex-start">
                      <span className="sign-line"><State status={r.status} conclusion={r.conclusion} /></span>
                      <div>
                        <Anchor component={Link} to={`/${name}/actions/runs/${r.id}`} fw={600} lineClamp={1} c="inherit">
                          {r.display_title}
                        </Anchor>
                        <Text size="xs" c="dimmed">
                          {r.name} #{r.run_number} · {r.actor.login}
                        </Text>
                      </div>
                    </Group>
                  </Table.Td>
                  <Table.Td visibleFrom="sm"><Branch name={r.head_branch} /></Table.Td>
                  <Table.Td visibleFrom="md"><Text size="sm">{r.event}</Text></Table.Td>
                  <Table.Td visibleFrom="sm"><Text size="sm" title={r.created_at}>{ago(r.created_at, now)}</Text></Table.Td>
                  <Table.Td><Text size="sm">{r.status === 'completed' ? duration(r.run_started_at, r.updated_at) : duration(r.run_started_at, undefined, now)}</Text></Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
          {(page > 1 || runs.data.total_count > perPage) && (
            <Pagination value={page} onChange={setPage} total={Math.ceil(runs.data.total_count / perPage)} getControlProps={(c) => ({ 'aria-label': `${c} page` })} />
          )}
        </Stack>
      )}
    </>
  )
}
