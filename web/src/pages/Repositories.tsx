import { Anchor, Badge, Code, Group, Stack, Table, Text, TextInput, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import { useEffect, useState } from 'react'
import { github, listen, queries, type Repository, type WorkflowRun } from '../api'
import { ago } from '../format'
import { Branch, Empty, Problem, State, Waiting } from '../parts'

function LastRun({ name }: { name: string }) {
  const { data } = useQuery({ queryKey: ['runs', name, 'last'], queryFn: () => github<{ workflow_runs: WorkflowRun[] }>(`/repos/${name}/actions/runs?per_page=1`) })
  const run = data?.workflow_runs[0]
  if (!run) return <Text c="dimmed" size="sm">{data ? 'no runs yet' : ''}</Text>
  return (
    <Group gap="xs" wrap="nowrap">
      <State status={run.status} conclusion={run.conclusion} />
      <Anchor component={Link} to={`/${name}/actions/runs/${run.id}`} size="sm" lineClamp={1}>
        {run.display_title}
      </Anchor>
      <Branch name={run.head_branch} />
      <Text size="sm" c="dimmed" visibleFrom="sm">
        {ago(run.updated_at)}
      </Text>
    </Group>
  )
}

export function Repositories() {
  const [filter, setFilter] = useState('')
  const list = useQuery({ queryKey: ['repositories'], queryFn: () => github<Repository[]>('/user/repos?per_page=100') })
  useEffect(() => {
    document.title = 'Repositories · Penstock'
    return listen('/events', () => queries.invalidateQueries({ queryKey: ['runs'] }))
  }, [])
  if (list.isPending) return <Waiting what="repositories" />
  if (list.error) return <Problem error={list.error} />
  const shown = list.data.filter((r) => r.full_name.toLowerCase().includes(filter.toLowerCase()))
  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h3">
          Repositories
        </Title>
        {list.data.length > 5 && <TextInput aria-label="Filter repositories" placeholder="Filter" value={filter} onChange={(e) => setFilter(e.currentTarget.value)} />}
      </Group>
      {list.data.length === 0 ? (
        <Empty title="No repositories yet">
          Push one that has workflows in <Code>.github/workflows</Code>; your token is the password:
          <Code block mt="sm" ta="left">{`git push ${location.protocol}//x:TOKEN@${location.host}/OWNER/NAME main`}</Code>
        </Empty>
      ) : (
        <Table highlightOnHover>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Repository</Table.Th>
              <Table.Th>Last run</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {shown.map((r) => (
              <Table.Tr key={r.full_name}>
                <Table.Td>
                  <Group gap="xs">
                    <Anchor component={Link} to={`/${r.full_name}/actions`} fw={600}>
                      {r.full_name}
                    </Anchor>
                    {r.private && (
                      <Badge variant="outline" color="gray" size="sm">
                        private
                      </Badge>
                    )}
                  </Group>
                </Table.Td>
                <Table.Td>
                  <LastRun name={r.full_name} />
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
    </Stack>
  )
}
